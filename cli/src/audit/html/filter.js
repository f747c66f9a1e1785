"use strict";
(function () {
  var bar = document.getElementById("filter");
  if (!bar) { return; }
  var text = document.getElementById("filter-text");
  var count = document.getElementById("filter-count");
  var boxes = Array.from(bar.querySelectorAll("input[data-severity]"));
  var lints = Array.from(document.querySelectorAll(".lint")).map(function (lint) {
    var items = Array.from(lint.querySelectorAll(".finding")).map(function (item) {
      return { item: item, text: item.textContent.toLowerCase() };
    });
    return { lint: lint, items: items, text: lint.querySelector("h3").textContent.toLowerCase() };
  });
  function apply() {
    var wanted = text.value.trim().toLowerCase();
    var severities = boxes.filter(function (box) { return box.checked; }).map(function (box) { return box.dataset.severity; });
    var shown = 0;
    lints.forEach(function (of) {
      var some = false;
      var whole = severities.indexOf(of.lint.dataset.severity) >= 0;
      var heading = of.text.indexOf(wanted) >= 0;
      of.items.forEach(function (one) {
        var show = whole && (heading || one.text.indexOf(wanted) >= 0);
        one.item.hidden = !show;
        some = some || show;
        shown += show ? 1 : 0;
      });
      of.lint.hidden = !some;
    });
    count.textContent = shown + " shown";
  }
  text.addEventListener("input", apply);
  boxes.forEach(function (box) { box.addEventListener("change", apply); });
  bar.hidden = false;
  apply();
})();
