// Keys mark an answer, Enter gives it; and a form is sent once. Everything works without this file, with Tab and Enter.
"use strict";
const form = document.getElementById("answer");
const keys = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 3: "tie", ArrowDown: "tie" };
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const button = keys[event.key] && form.querySelector(`button[value="${keys[event.key]}"]`);
  if (!button) return;
  event.preventDefault();
  button.focus();
});
let sent = false;
form.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});
window.addEventListener("pageshow", () => { sent = false; });
