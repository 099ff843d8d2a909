// What every page needs: live parts, ages that go on, errors of actions, and the proof that a request comes from here.
// Text of jobs is only ever set as text.
"use strict";

(() => {
  const AGE_EVERY = 1000;
  const RECONNECT_AFTER = 3000;

  const seconds = (text) => Date.parse(text) / 1000;
  const age = (span) => {
    if (span < 60) return `${Math.floor(span)} s`;
    if (span < 3600) return `${Math.floor(span / 60)} min`;
    if (span < 86400) return `${Math.floor(span / 3600)} h`;
    return `${Math.floor(span / 86400)} d`;
  };

  // The clock of this machine may be wrong; the server's is what the times were written by.
  let ahead = 0;
  const note = (headers) => {
    const date = Date.parse(headers.get("date"));
    if (date) ahead = Math.abs(Date.now() - date) < 2000 ? 0 : Date.now() - date;
  };

  const tick = () => {
    const now = (Date.now() - ahead) / 1000;
    for (const time of document.querySelectorAll("time[data-age]")) {
      const span = now - seconds(time.dateTime);
      const text = Math.abs(span) < 1 ? "now" : span > 0 ? `${age(span)} ago` : `in ${age(-span)}`;
      if (time.textContent !== text) time.textContent = text;
    }
  };
  setInterval(tick, AGE_EVERY);

  const csrf = () => document.querySelector('meta[name="csrf"]')?.content ?? "";

  const say = (text) => {
    document.getElementById("said").textContent = text;
  };

  let hiding;
  const complain = (text) => {
    const notice = document.getElementById("notice");
    notice.textContent = text;
    notice.hidden = false;
    clearTimeout(hiding);
    hiding = setTimeout(() => { notice.hidden = true; }, 12000);
  };

  /** What a problem document says, for a person. */
  const words = (problem, status) => {
    if (!problem || !problem.title) return `The node answered ${status}.`;
    const hint = problem.hint ? ` (${problem.hint})` : "";
    return `${problem.title}: ${problem.detail}${hint}`;
  };

  const parse = (text) => {
    try { return JSON.parse(text); } catch { return null; }
  };

  document.addEventListener("htmx:configRequest", (event) => {
    if (csrf()) event.detail.headers["x-workrs-csrf"] = csrf();
    if (event.detail.verb !== "get") event.detail.headers["Accept"] = "application/json";
  });

  document.addEventListener("htmx:responseError", (event) => {
    const { xhr, requestConfig } = event.detail;
    if (requestConfig.verb === "get") {
      // Whoever is logged out meanwhile is asked who they are.
      if (xhr.status === 401) window.location.reload();
      return;
    }
    complain(words(parse(xhr.responseText), xhr.status));
  });
  document.addEventListener("htmx:sendError", (event) => {
    if (event.detail.requestConfig.verb !== "get") complain("The node does not answer. Try again, or ask another node.");
  });

  // The first change after some quiet is drawn at once; while more come, a part is drawn less and less often, at last once a
  // second. The last change is never left out.
  const SOON = 10;
  const GAP = 150;
  const LONGEST_GAP = 1000;
  const drawn = new Map();
  const drawSoon = (id) => {
    const known = drawn.get(id) ?? { at: 0, gap: GAP, waits: false };
    drawn.set(id, known);
    if (known.waits) return;
    known.waits = true;
    if (Date.now() - known.at > 2 * LONGEST_GAP) known.gap = GAP;
    setTimeout(() => {
      known.waits = false;
      known.at = Date.now();
      known.gap = Math.min(2 * known.gap, LONGEST_GAP);
      document.getElementById(id)?.dispatchEvent(new CustomEvent("workrs:changed"));
    }, Math.max(SOON, known.at + known.gap - Date.now()));
  };

  /** Tells the parts of the page that show jobs or nodes that something changed. */
  const changed = (kind, job) => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const wants = part.dataset.live.split(" ").includes(kind);
      const mine = !part.dataset.job || !job || part.dataset.job === job;
      if (wants && mine) drawSoon(part.id);
    }
  };

  document.addEventListener("htmx:afterRequest", (event) => {
    const { elt, successful, requestConfig } = event.detail;
    if (!successful || requestConfig.verb === "get") return;
    if (elt.dataset.says) say(elt.dataset.says);
    const sure = elt.closest("details.sure");
    if (sure) sure.open = false;
    changed("job");
    changed("node");
    changed("access");
  });

  // What was folded out stays so when its part of the page is drawn anew, and the keyboard stays where it was.
  let open = [];
  let state = null;
  document.addEventListener("htmx:beforeSwap", (event) => {
    const target = event.detail.target;
    open = [...target.querySelectorAll("details[open][id]")].map((details) => details.id);
    state = target.dataset.state ?? null;
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of open) {
      const details = document.getElementById(id);
      if (details) details.open = true;
    }
    const job = document.querySelector("[data-state]");
    if (job && state && job.dataset.state !== state) {
      say(`The job is ${job.dataset.state}`);
      document.dispatchEvent(new CustomEvent("workrs:state"));
    }
    tick();
  });

  // One stream a page. It rests while nobody looks.
  let source = null;
  const listen = () => {
    if (source || document.hidden || !document.querySelector("[data-live]")) return;
    source = new EventSource("/api/v1/events");
    source.addEventListener("job", (event) => changed("job", parse(event.data)?.id));
    source.addEventListener("node", () => changed("node"));
    source.addEventListener("missed", () => { changed("job"); changed("node"); });
    source.addEventListener("error", () => {
      // The browser tries again by itself unless the answer was a refusal.
      if (source?.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(() => { changed("job"); listen(); }, RECONNECT_AFTER);
      }
    });
  };
  const rest = () => {
    source?.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      rest();
    } else {
      changed("job");
      changed("node");
      listen();
    }
  });
  window.addEventListener("pagehide", rest);
  window.addEventListener("pageshow", listen);

  window.workrs = { csrf, say, complain, words, parse, age, note };
  listen();
})();
