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

  // Categories, told apart also by most who are colour-blind; as light or dark as the ground asks.
  const CATEGORIES = {
    light: ["#0072b2", "#d55e00", "#009e73", "#aa3377", "#b8860b", "#4b3fa7", "#2aa3c4", "#8c510a", "#6b8e23", "#d6569b"],
    dark: ["#4ea3e0", "#ff8c42", "#2fc79a", "#e07bb5", "#f0c94a", "#9d8ff2", "#7fd6ee", "#d0a06a", "#b4d36a", "#ff9fbf"],
  };
  XDC.dark = () => document.documentElement.dataset.theme === "dark";
  XDC.categories = () => CATEGORIES[XDC.dark() ? "dark" : "light"];
  XDC.color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  // One colour a modality, everywhere on the page.
  XDC.modalityColor = (name) => XDC.color(["video", "audio"].includes(name) ? name : "joint");
  apply();
})();
