// What the theme leaves out: the name of the search dialog, and the keyboard's way into what scrolls sideways.
window.addEventListener("load", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const scrolling of document.querySelectorAll(".md-typeset__scrollwrap, figure.drawing, .output")) {
    scrolling.tabIndex = 0;
  }
});
