// Hands a job over: files are chosen or dropped, sent with their progress shown, and what the API refuses is said at its field.
"use strict";

(() => {
  const form = document.getElementById("submit");
  const drop = form.querySelector(".drop");
  const list = form.querySelector(".chosen");
  const files = new Map();
  let script = null;

  const what = () => form.elements.what.value;
  const size = (bytes) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let at = 0;
    while (bytes >= 1024 && at + 1 < units.length) { bytes /= 1024; at += 1; }
    return `${bytes < 10 && at > 0 ? bytes.toFixed(1) : Math.round(bytes)} ${units[at]}`;
  };

  // A number given to a job is the same job however often it is sent.
  const draw = () => {
    const alphabet = "0123456789abcdefghjkmnpqrstvwxyz";
    let time = Date.now();
    let text = "";
    for (let at = 0; at < 10; at += 1) { text = alphabet[time % 32] + text; time = Math.floor(time / 32); }
    for (const byte of crypto.getRandomValues(new Uint8Array(16))) text += alphabet[byte % 32];
    return text;
  };

  /** Words as a shell takes a line apart; an Error where a quote is not closed. */
  const words = (text) => {
    const found = [];
    let word = null;
    let quote = null;
    for (let at = 0; at < text.length; at += 1) {
      const char = text[at];
      if (quote === "'") {
        if (char === "'") quote = null; else word += char;
      } else if (quote === '"') {
        if (char === '"') quote = null;
        else if (char === "\\" && '"\\$`'.includes(text[at + 1] ?? " ")) { at += 1; word += text[at]; }
        else word += char;
      } else if (char === "'" || char === '"') {
        quote = char;
        word ??= "";
      } else if (char === "\\" && at + 1 < text.length) {
        at += 1;
        word = (word ?? "") + text[at];
      } else if (/\s/.test(char)) {
        if (word !== null) found.push(word);
        word = null;
      } else {
        word = (word ?? "") + char;
      }
    }
    if (quote) throw new Error(`a ${quote} is not closed`);
    if (word !== null) found.push(word);
    return found;
  };

  const field = (name) => [...form.querySelectorAll("[data-field]")].find((box) => box.dataset.field.split(" ").includes(name));

  const clear = () => {
    form.querySelector(".form-error").hidden = true;
    for (const box of form.querySelectorAll("[data-field]")) {
      box.querySelector(".error").hidden = true;
      for (const control of box.querySelectorAll("[aria-invalid]")) {
        control.removeAttribute("aria-invalid");
        control.removeAttribute("aria-describedby");
      }
    }
  };

  const refuse = (name, text) => {
    const box = name && field(name);
    if (!box || box.closest("[hidden]") || getComputedStyle(box).display === "none") {
      const error = form.querySelector(".form-error");
      error.textContent = text;
      error.hidden = false;
      error.focus();
      return;
    }
    const fold = box.closest("details");
    if (fold) fold.open = true;
    const error = box.querySelector(".error");
    error.id = `error-${name}`;
    error.textContent = text;
    error.hidden = false;
    const control = box.querySelector("input:not(.unseen), select, textarea, button");
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", error.id);
    control.focus();
  };

  const show = () => {
    form.dataset.what = what();
    form.dataset.checkpoint = form.elements.checkpoint.value;
    list.replaceChildren();
    for (const [path, file] of files) {
      const item = document.createElement("li");
      const label = document.createElement("label");
      const mark = document.createElement("input");
      mark.type = "radio";
      mark.name = "script";
      mark.checked = path === script;
      mark.disabled = path.includes("/");
      mark.className = "for-script";
      mark.addEventListener("change", () => { script = path; });
      const name = document.createElement("span");
      name.className = "path";
      name.textContent = path;
      label.append(mark, name);
      const length = document.createElement("span");
      length.className = "dim size";
      length.textContent = size(file.size);
      const remove = document.createElement("button");
      remove.type = "button";
      remove.className = "quiet";
      remove.textContent = "Remove";
      remove.setAttribute("aria-label", `Remove ${path}`);
      remove.addEventListener("click", () => {
        files.delete(path);
        if (script === path) script = null;
        show();
      });
      item.append(label, length, remove);
      list.append(item);
    }
  };

  const add = (path, file) => {
    files.set(path, file);
    // The first file that looks like a program is the one to run until somebody says otherwise.
    const isProgram = (name) => /\.(py|sh|pl|rb|js|lua|r)$/i.test(name) || !name.includes(".");
    if (!path.includes("/") && (script === null || (!isProgram(script) && isProgram(path)))) script = path;
  };

  const walk = async (entry, folder) => {
    const path = folder + entry.name;
    if (entry.isFile) {
      add(path, await new Promise((done, failed) => entry.file(done, failed)));
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (some.length === 0) return;
      for (const inner of some) await walk(inner, `${path}/`);
    }
  };

  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    try {
      for (const entry of entries) await walk(entry, "");
    } catch (error) {
      refuse("input", `It cannot be read: ${error.message}`);
    }
    show();
  });
  const picked = form.querySelector("input.files");
  const folder = form.querySelector("input.folder");
  form.querySelector(".pick-files").addEventListener("click", () => picked.click());
  form.querySelector(".pick-folder").addEventListener("click", () => folder.click());
  for (const input of [picked, folder]) {
    input.addEventListener("change", () => {
      for (const file of input.files) add(file.webkitRelativePath || file.name, file);
      input.value = "";
      show();
    });
  }
  form.addEventListener("change", show);

  /** The form as the API takes it. Texts come first: an id behind files would be too late. */
  const gather = () => {
    const data = new FormData();
    const isScript = what() === "script";
    const list = (name, text) => {
      try {
        for (const word of words(text)) data.append(name, word);
      } catch (error) {
        throw Object.assign(error, { field: name });
      }
    };
    if (isScript) {
      if (script === null) throw Object.assign(new Error("choose a file, and mark the one to run"), { field: "script" });
      list("args", form.elements.args.value);
    } else {
      list("command", form.elements.command.value);
    }
    for (const name of ["name", "image", "forecast", "cpus", "memory", "disk", "timeout", "retries", "network", "priority"]) {
      const value = form.elements[name].value.trim();
      if (value !== "") data.append(name, value);
    }
    const checkpoint = form.elements.checkpoint.value;
    if (checkpoint === "every") data.append("checkpoint", `every=${form.elements.every.value.trim()}`);
    else if (checkpoint !== "") data.append("checkpoint", checkpoint);
    for (const name of ["env", "constraints", "outputs"]) {
      for (const line of form.elements[name].value.split("\n")) if (line.trim() !== "") data.append(name, line.trim());
    }
    for (const [path, file] of files) {
      const isIt = isScript && path === script;
      data.append(isIt ? "script" : "input", file, path);
    }
    return data;
  };

  const sending = form.querySelector(".sending");
  const button = form.querySelector("button[type=submit]");
  let id = draw();

  const send = (data) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/v1/jobs?id=${id}`);
    request.setRequestHeader("Accept", "application/json");
    if (window.workrs.csrf()) request.setRequestHeader("x-workrs-csrf", window.workrs.csrf());
    const bar = sending.querySelector("progress");
    const text = sending.querySelector("span");
    const busy = (is) => {
      button.disabled = is;
      sending.hidden = !is;
    };
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      bar.value = Math.floor(event.loaded / event.total * 100);
      text.textContent = event.loaded < event.total
        ? `${size(event.loaded)} of ${size(event.total)} sent`
        : "sent, waiting until it is safe";
    });
    request.addEventListener("load", () => {
      busy(false);
      const answer = window.workrs.parse(request.responseText);
      if (request.status < 300 && answer?.id) {
        window.location.assign(`/jobs/${encodeURIComponent(answer.id)}`);
        return;
      }
      // What was refused is not known by this id, and what is sent next may be another job.
      id = draw();
      const hint = answer?.hint ? ` (${answer.hint})` : "";
      if (answer?.field) refuse(answer.field, `${answer.detail}${hint}`);
      else refuse(null, window.workrs.words(answer, request.status));
    });
    request.addEventListener("error", () => {
      busy(false);
      refuse(null, "The connection broke off. Send it again: it is taken once, however often it is sent.");
    });
    request.addEventListener("abort", () => {
      busy(false);
      id = draw();
    });
    sending.querySelector(".stop").onclick = () => request.abort();
    bar.value = 0;
    text.textContent = "sending";
    busy(true);
    request.send(data);
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clear();
    try {
      send(gather());
    } catch (error) {
      refuse(error.field, error.message);
    }
  });

  show();
})();
