// Looks at outputs without ever running them: text is shown as text, pictures as pictures of a format that holds no script.
"use strict";

(() => {
  const MOST = 256 << 10;
  const PICTURES = [
    { type: "image/png", begins: [0x89, 0x50, 0x4e, 0x47] },
    { type: "image/jpeg", begins: [0xff, 0xd8, 0xff] },
    { type: "image/gif", begins: [0x47, 0x49, 0x46, 0x38] },
    { type: "image/webp", begins: [0x52, 0x49, 0x46, 0x46], then: [0x57, 0x45, 0x42, 0x50] },
  ];

  const has = (bytes, at, wanted) => wanted.every((byte, index) => bytes[at + index] === byte);
  const picture = (bytes) => PICTURES.find(({ begins, then }) => has(bytes, 0, begins) && (!then || has(bytes, 8, then)));

  const base64 = (bytes) => {
    let text = "";
    for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
    return btoa(text);
  };

  const draw = (bytes) => {
    const found = picture(bytes);
    if (found) {
      const image = document.createElement("img");
      image.alt = "";
      image.src = `data:${found.type};base64,${base64(bytes)}`;
      return image;
    }
    const shown = bytes.subarray(0, MOST);
    let text;
    try {
      // The cut may lie within a character.
      text = new TextDecoder("utf-8", { fatal: true }).decode(shown, { stream: shown.length < bytes.length });
    } catch { text = null; }
    if (text === null || text.includes("\0")) {
      const note = document.createElement("p");
      note.className = "dim";
      note.textContent = "It is neither text nor a picture that can be shown here. Download it to see it.";
      return note;
    }
    const block = document.createElement("pre");
    block.tabIndex = 0;
    block.textContent = text === "" ? "(empty)" : text;
    if (shown.length < bytes.length) block.append("\n… (the rest is in the download)");
    return block;
  };

  const look = async (button) => {
    const item = button.closest("li");
    const known = item.querySelector(".look");
    if (known) {
      known.remove();
      button.setAttribute("aria-expanded", "false");
      return;
    }
    button.disabled = true;
    try {
      const answer = await fetch(button.dataset.look);
      if (!answer.ok) throw new Error(window.workrs.words(window.workrs.parse(await answer.text()), answer.status));
      const box = document.createElement("div");
      box.className = "look";
      box.append(draw(new Uint8Array(await answer.arrayBuffer())));
      item.append(box);
      button.setAttribute("aria-expanded", "true");
    } catch (error) {
      window.workrs.complain(error.message);
    } finally {
      button.disabled = false;
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-look]");
    if (button) look(button);
  });
})();
