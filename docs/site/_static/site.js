// What scrolls sideways can be reached by the keyboard too.
addEventListener("load", () => {
  for (const box of document.querySelectorAll(".bd-content div, .bd-content pre")) {
    const look = getComputedStyle(box).overflowX;
    if ((look === "auto" || look === "scroll") && box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "wide content");
    }
  }
});
