// Makes tokens, whose text is shown once and kept nowhere, and sets quotas.
"use strict";

(() => {
  /** Sends what `gather` makes of a form's fields whenever it is submitted, and tells what is wrong with it. */
  const serve = (form, gather, done) => {
    const error = form.parentElement.querySelector(".error");
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      error.hidden = true;
      const headers = { "content-type": "application/json", accept: "application/json" };
      if (window.workrs.csrf()) headers["x-workrs-csrf"] = window.workrs.csrf();
      try {
        const { method, path, body } = gather(form.elements);
        const answer = await fetch(path, { method, headers, body: JSON.stringify(body) });
        const said = window.workrs.parse(await answer.text());
        if (!answer.ok) throw new Error(window.workrs.words(said, answer.status));
        done(said);
        form.reset();
        document.getElementById("access").dispatchEvent(new CustomEvent("workrs:changed"));
      } catch (problem) {
        error.textContent = problem.message;
        error.hidden = false;
      }
    });
  };

  const text = (field) => field.value.trim();

  const made = document.querySelector(".made");
  serve(document.getElementById("make-token"), (fields) => {
    made.hidden = true;
    const body = { owner: text(fields.owner), role: fields.role.value };
    if (text(fields.expires) !== "") body.expires = text(fields.expires);
    return { method: "POST", path: "/api/v1/tokens", body };
  }, (said) => {
    made.querySelector("code").textContent = said.token;
    made.hidden = false;
  });

  const number = (field, name) => {
    const value = Number(text(field));
    if (!Number.isFinite(value)) throw new Error(`${name}: ${text(field)} is no number`);
    return value;
  };

  const UNITS = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };
  const bytes = (field, name) => {
    const found = /^([0-9]+(?:[.][0-9]+)?) ?([kmgt]?)(?:i?b)?$/i.exec(text(field));
    if (!found) throw new Error(`${name}: ${text(field)} is no size: write it as 512M or 1.5G`);
    return Math.round(Number(found[1]) * UNITS[found[2].toLowerCase()]);
  };

  const LIMITS = [
    ["running", "running", number, "Jobs at a time"],
    ["cpus", "cpus", number, "Cores"],
    ["memory", "memory_bytes", bytes, "Memory"],
    ["queued", "queued", number, "Jobs that wait"],
    ["stored", "stored_bytes", bytes, "Stored"],
  ];
  serve(document.getElementById("set-quota"), (fields) => {
    const body = {};
    for (const [field, name, read, label] of LIMITS) {
      if (text(fields[field]) !== "") body[name] = read(fields[field], label);
    }
    const owner = text(fields.whose);
    const path = owner === "" ? "/api/v1/default-quota" : `/api/v1/quotas/${encodeURIComponent(owner)}`;
    return { method: "PUT", path, body };
  }, () => window.workrs.say("The quota is set"));
})();
