"use strict";
// A slider over two pictures: left of it the LQ, right of it the HQ.
for (const slider of document.querySelectorAll(".compare input")) {
  const move = () => slider.parentNode.style.setProperty("--x", slider.value + "%");
  slider.addEventListener("input", move);
  move();  // a page that is opened again keeps where its sliders were
}
