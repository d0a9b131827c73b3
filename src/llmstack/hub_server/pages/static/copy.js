// Adds a button to each snippet. Without scripts, a click selects the snippet.
(() => {
  const texts = document.currentScript.dataset;
  const copied = async (code) => {
    // Pages without HTTPS have no clipboard.
    if (navigator.clipboard) return navigator.clipboard.writeText(code.textContent).then(() => true, () => false);
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  };
  for (const figure of document.querySelectorAll("figure.snippet")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = texts.copy;
    button.addEventListener("click", async () => {
      if (!(await copied(figure.querySelector("code")))) return;
      button.textContent = texts.copied;
      setTimeout(() => { button.textContent = texts.copy; }, 2000);
    });
    figure.querySelector("figcaption").append(button);
  }
})();
