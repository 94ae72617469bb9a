const tip = document.getElementById("tip");

function tell(mark, x, y) {
  const [name, ...values] = mark.getAttribute("aria-label").split("; ");
  const title = document.createElement("strong");
  title.textContent = name;
  tip.replaceChildren(title, ...values.map((value) => {
    const line = document.createElement("div");
    line.textContent = value;
    return line;
  }));
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), edge = document.documentElement.clientWidth - box.width - 8;
  tip.style.left = `${Math.max(8, Math.min(x + 14, edge))}px`;
  tip.style.top = `${y + box.height + 20 < innerHeight ? y + 16 : Math.max(8, y - box.height - 14)}px`;
}

function hide() { tip.hidden = true; }

const marked = (event) => event.target instanceof Element ? event.target.closest(".mark") : null;

for (const kind of ["pointerover", "pointermove"]) {
  document.addEventListener(kind, (event) => {
    const mark = marked(event);
    if (mark) tell(mark, event.clientX, event.clientY);
    else hide();
  });
}
document.addEventListener("focusin", (event) => {
  const mark = marked(event);
  if (!mark) return hide();
  const box = (mark.querySelector(".reach") ?? mark).getBoundingClientRect();
  return tell(mark, box.left + box.width / 2, box.top + box.height / 2);
});
document.addEventListener("focusout", hide);
document.addEventListener("scroll", hide, { passive: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    getSelection().selectAllChildren(code);
    try { await navigator.clipboard.writeText(code.textContent); } catch { document.execCommand("copy"); }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}

for (const button of document.querySelectorAll("button.save")) {
  button.addEventListener("click", () => {
    const drawings = [...button.closest("section").querySelectorAll("figure svg[viewBox]")];
    const shown = drawings.find((drawing) => drawing.getBoundingClientRect().width > 0);
    const style = getComputedStyle(document.documentElement), copy = shown.cloneNode(true);
    const [, , width, height] = shown.getAttribute("viewBox").split(" ");
    for (const [name, value] of Object.entries({ width, height, "font-family": "system-ui, sans-serif" })) {
      copy.setAttribute(name, value);
    }
    copy.style.background = style.getPropertyValue("--paper");
    const text = new XMLSerializer().serializeToString(copy);
    const plain = text.replace(/var\((--[a-z]+)[^)]*\)/g, (all, name) => style.getPropertyValue(name).trim());
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([plain], { type: "image/svg+xml" }));
    link.download = button.dataset.name;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
