"use strict";
// Light and dark, by the system or by the switch; and the colours that scripts draw with.
(function () {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const ORDER = ["auto", "light", "dark"];
  const SIGNS = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
  let choice = "auto";
  try {
    choice = localStorage.getItem("xdc-theme") || "auto";
  } catch {
    // Storage is forbidden: the choice lasts as long as the page.
  }

  function apply() {
    const dark = choice === "dark" || (choice === "auto" && system.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = SIGNS[choice] || SIGNS.auto;
      button.setAttribute("aria-label", `Colours: ${choice}`);
    }
    document.dispatchEvent(new Event("xdc-theme"));
  }

  function next() {
    choice = ORDER[(ORDER.indexOf(choice) + 1) % ORDER.length];
    try {
      localStorage.setItem("xdc-theme", choice);
    } catch {
      // As above.
    }
    apply();
  }

  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", next);
    apply();
  });

  XDC.color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  XDC.categories = () => Array.from({ length: 10 }, (_, i) => XDC.color(`category-${i}`));
  // One colour a modality, everywhere on the page.
  XDC.modalityColor = (name) => XDC.color(["video", "audio"].includes(name) ? name : "joint");
  apply();
})();
