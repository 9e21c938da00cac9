"use strict";
const clips = [...document.querySelectorAll(".clip")];
const list = document.getElementById("clips"), count = document.getElementById("count");
const filters = [...document.querySelectorAll("#filters select")];
let current = null;

const shown = () => clips.filter((clip) => !clip.hidden);

function choose() {
  const wanted = filters.map((filter) => filter.value).filter(Boolean);
  for (const clip of clips) {
    const tags = clip.dataset.tags.split(" ");
    clip.hidden = !wanted.every((tag) => tags.includes(tag));
    if (clip.hidden) clip.querySelector("audio")?.pause();
  }
  count.textContent = count.dataset.text.replace("{shown}", shown().length).replace("{all}", clips.length);
}

function go(step) {
  const order = clips.filter((clip) => !clip.hidden || clip === current);  // a filter may have hidden the current one
  const next = current && step === 0 ? current : order[order.indexOf(current) + step];
  const target = next && !next.hidden ? next : current && !current.hidden ? current : shown()[0];
  target?.focus();
  target?.scrollIntoView({ block: "nearest" });
}

function play(clip) {
  const audio = clip?.querySelector("audio");
  if (!audio) return;
  audio.controls = true;
  if (audio.paused) audio.play().catch(() => {});  // what can't be played is said by the error event
  else audio.pause();
}

const keys = {
  j: () => go(1),
  k: () => go(-1),
  p: () => play(current ?? shown()[0]),
  f: () => filters[0].focus(),
  r: () => { for (const filter of filters) filter.value = ""; choose(); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const chosen = event.target.tagName === "SELECT";
  if (chosen && event.key === "Escape") go(0);
  if (chosen) return;
  // With a Hangul keyboard the J key gives ㅓ; then the place of the key counts.
  const key = /^[a-z]$/i.test(event.key) ? event.key : event.code.replace(/^Key/, "");
  const act = keys[key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});

document.addEventListener("focusin", (event) => {
  const clip = event.target.closest(".clip");
  if (!clip) return;
  current?.removeAttribute("aria-current");
  current = clip;
  current.setAttribute("aria-current", "true");
});

document.addEventListener("click", (event) => {
  if (event.target.closest(".play")) play(event.target.closest(".clip"));
});

for (const [name, label] of [["play", list.dataset.pause], ["pause", list.dataset.play]]) {
  document.addEventListener(name, (event) => {  // captured: these events do not bubble
    event.target.closest(".clip").querySelector(".play b").textContent = label;
    if (name === "play") for (const clip of clips) {
      const audio = clip.querySelector("audio");
      if (audio && audio !== event.target) audio.pause();
    }
  }, true);
}

document.addEventListener("error", (event) => {
  const sound = event.target.closest?.(".sound");
  if (sound) sound.textContent = list.dataset.unplayable;
}, true);

for (const filter of filters) filter.addEventListener("change", choose);
document.getElementById("reset").addEventListener("click", keys.r);
choose();
