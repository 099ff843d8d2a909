// A job's log, as it is printed: colours of terminals become classes, everything else stays text.
"use strict";

(() => {
  const MOST_LINES = 5000;
  const LONGEST_LINE = 10000;
  const RETRY_AFTER = 2000;
  const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

  /** What the escape sequences so far ask for, as classes. */
  class Style {
    constructor() { this.reset(); }
    reset() {
      this.bold = this.dim = this.italic = this.underline = this.inverse = false;
      this.colour = this.back = null;
    }
    apply(parameters) {
      const codes = parameters === "" ? [0] : parameters.split(/[;:]/).map((code) => Number.parseInt(code, 10) || 0);
      for (let at = 0; at < codes.length; at += 1) {
        const code = codes[at];
        if (code === 0) this.reset();
        else if (code === 1) this.bold = true;
        else if (code === 2) this.dim = true;
        else if (code === 3) this.italic = true;
        else if (code === 4) this.underline = true;
        else if (code === 7) this.inverse = true;
        else if (code === 22) this.bold = this.dim = false;
        else if (code === 23) this.italic = false;
        else if (code === 24) this.underline = false;
        else if (code === 27) this.inverse = false;
        else if (code >= 30 && code <= 37) this.colour = COLOURS[code - 30];
        else if (code >= 90 && code <= 97) this.colour = `bright-${COLOURS[code - 90]}`;
        else if (code === 39) this.colour = null;
        else if (code >= 40 && code <= 47) this.back = COLOURS[code - 40];
        else if (code >= 100 && code <= 107) this.back = COLOURS[code - 100];
        else if (code === 49) this.back = null;
        else if (code === 38 || code === 48) at = this.extended(codes, at);
      }
    }
    /** Of 256 colours the first 16 have names here; others are left out. */
    extended(codes, at) {
      if (codes[at + 1] === 2) return at + 4;
      const number = codes[at + 2];
      const name = number < 8 ? COLOURS[number] : number < 16 ? `bright-${COLOURS[number - 8]}` : null;
      if (codes[at] === 38) this.colour = name;
      else this.back = name?.replace("bright-", "") ?? null;
      return at + 2;
    }
    classes() {
      const names = [];
      for (const name of ["bold", "dim", "italic", "underline", "inverse"]) if (this[name]) names.push(`a-${name}`);
      if (this.colour) names.push(`a-${this.colour}`);
      if (this.back) names.push(`a-on-${this.back}`);
      return names.join(" ");
    }
  }

  // CSI sequences; others (OSC with its end, two-character ones); what is left of one at the end of a piece.
  const ESCAPE = /\x1b(?:\[([0-?]*)[ -\/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -\/]*[0-~])/g;
  const UNFINISHED = /\x1b(?:\[[0-?]*[ -\/]*|\][^\x07\x1b]*\x1b?|[PX^_][^\x1b]*\x1b?|[ -\/]*)?$/;
  const LONGEST_ESCAPE = 2000;

  class Log {
    constructor(section) {
      this.section = section;
      this.text = section.querySelector(".log-text");
      this.status = section.querySelector(".log-state");
      this.follow = section.querySelector(".log-follow");
      this.lines = [];
      this.begun = Number(section.dataset.from);
      this.restart(this.begun);
      this.follow.addEventListener("change", () => this.scroll());
      section.querySelector(".log-wrap").addEventListener("change", (event) => {
        this.text.classList.toggle("wraps", event.target.checked);
      });
      // Whoever scrolls up wants to read; at the end again, the log goes on.
      this.text.addEventListener("scroll", () => {
        const atEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 40;
        if (!this.scrolling) this.follow.checked = atEnd;
        this.scrolling = false;
      }, { passive: true });
    }

    /** Goes on from byte `offset`, with nothing half-read. */
    restart(offset) {
      this.offset = offset;
      this.decoder = new TextDecoder("utf-8");
      this.rest = "";
      this.style = new Style();
      this.line = null;
      this.returned = false;
      this.cut = false;
    }

    newLine() {
      if (this.lines.length === 0) this.text.querySelector(".log-empty")?.remove();
      const element = document.createElement("div");
      element.className = "line";
      this.line = { element, length: 0 };
      this.lines.push(this.line);
      this.pending.append(element);
    }

    put(text) {
      if (!this.line) this.newLine();
      const room = LONGEST_LINE - this.line.length;
      if (room <= 0 || text === "") return;
      const shown = text.length > room ? `${text.slice(0, room)} …` : text;
      this.line.length += text.length;
      const classes = this.style.classes();
      if (classes) {
        const span = document.createElement("span");
        span.className = classes;
        span.textContent = shown;
        this.line.element.append(span);
      } else {
        this.line.element.append(shown);
      }
    }

    /** Plain text between escape sequences. A carriage return begins the line anew, as on a terminal. */
    plain(text) {
      for (const piece of text.split(/(\r\n|\n|\r)/)) {
        if (piece === "\n" || piece === "\r\n") {
          if (!this.line) this.newLine();
          this.line = null;
          this.returned = false;
        } else if (piece === "\r") {
          this.returned = true;
        } else if (piece !== "") {
          if (this.returned && this.line) {
            this.line.element.replaceChildren();
            this.line.length = 0;
          }
          this.returned = false;
          this.put(piece.replace(/[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]/g, "\ufffd"));
        }
      }
    }

    add(offset, bytes) {
      if (offset < this.offset) bytes = bytes.subarray(Math.min(bytes.length, this.offset - offset));
      if (bytes.length === 0) return;
      this.pending = document.createDocumentFragment();
      let text = this.rest + this.decoder.decode(bytes, { stream: true });
      this.rest = "";
      // A carriage return at the very end may belong to a line's end that comes with the next piece.
      const cut = text.match(UNFINISHED) ?? text.match(/\r$/);
      if (cut && text.length - cut.index < LONGEST_ESCAPE) {
        this.rest = text.slice(cut.index);
        text = text.slice(0, cut.index);
      }
      let at = 0;
      for (const match of text.matchAll(ESCAPE)) {
        this.plain(text.slice(at, match.index));
        if (match[2] === "m") this.style.apply(match[1]);
        at = match.index + match[0].length;
      }
      this.plain(text.slice(at).replaceAll("\x1b", "\ufffd"));
      this.offset = Math.max(this.offset, offset + bytes.length);
      this.text.append(this.pending);
      this.bound();
      this.scroll();
    }

    /** Drops the oldest lines of a long log: the whole one is a link away. */
    bound() {
      const surplus = this.lines.length - MOST_LINES;
      if (surplus > 0) {
        for (const line of this.lines.splice(0, surplus)) line.element.remove();
        this.cut = true;
      }
      this.text.classList.toggle("cut", this.cut || this.begun > 0);
    }

    /** A resume undid what was printed from `offset` on: it comes again. Where in a line that is, is not known, so what
        is shown is read anew. */
    rewind(offset) {
      if (offset >= this.offset) return false;
      this.begun = Math.min(this.begun, offset);
      for (const line of this.lines.splice(0)) line.element.remove();
      this.restart(this.begun);
      this.say("a resume undid the newest lines; they come again");
      return true;
    }

    scroll() {
      if (!this.follow.checked) return;
      this.scrolling = true;
      this.text.scrollTop = this.text.scrollHeight;
    }

    say(text) {
      this.status.textContent = text;
    }

    /** Reads until the job has ended, across nodes that die. */
    async read() {
      for (;;) {
        const ended = await this.stream().catch(() => false);
        if (ended) return this.say("");
        this.say("reconnecting …");
        await new Promise((done) => setTimeout(done, RETRY_AFTER));
      }
    }

    /** Whether the log came to its end. */
    async stream() {
      const id = encodeURIComponent(this.section.dataset.log);
      const leave = new AbortController();
      window.addEventListener("pagehide", () => leave.abort(), { once: true });
      const address = `/api/v1/jobs/${id}/logs?follow=true&format=events&offset=${this.offset}`;
      const answer = await fetch(address, { signal: leave.signal, headers: { Accept: "application/x-ndjson" } });
      if (!answer.ok) {
        const problem = window.workrs.parse(await answer.text());
        this.say(window.workrs.words(problem, answer.status));
        return answer.status === 404;
      }
      this.say("");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return false;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const event = line && JSON.parse(line);
          if (!event) continue;
          if (event.event === "bytes") this.add(event.offset, Uint8Array.from(event.data, (c) => c.charCodeAt(0)));
          else if (event.event === "end") return true;
          else if (event.event === "failed") { this.say(event.reason); return false; }
          else if (event.event === "rewound" && this.rewind(event.offset)) { leave.abort(); return false; }
        }
      }
    }
  }

  for (const section of document.querySelectorAll("[data-log]")) new Log(section).read();
})();
