// The ways in: file input, drop, paste, examples. Each gives a picture: { name, blob, url, label? }.

import { CLASSES } from "./words.js";

const $ = (id) => document.getElementById(id);
const NO_FILE = "No picture came: drop or paste a file. An address is not fetched; save its picture first.";
const LARGEST_SIDE = 1024; // pixels, of a picture that the browser converts
const QUALITY = 0.92; // of its JPEG

export function pictureOf(blob, name, more = {}) {
  return { name, blob, url: URL.createObjectURL(blob), ...more };
}

/** Calls `open(pictures)` for each choice, and `refuse(text)` for one without a picture. */
export function listen(open, refuse) {
  const take = (files) => {
    const pictures = [...files].map((file) => pictureOf(file, file.name || "pasted.png"));
    if (pictures.length) open(pictures);
    else refuse(NO_FILE);
  };
  for (const input of [$("file"), $("capture")]) {
    input.addEventListener("change", () => {
      if (input.files.length) take(input.files);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  // The whole page takes a drop; otherwise the browser would open the file in place of the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("zone").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("zone").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("zone").classList.remove("over");
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    const { files } = event.clipboardData;
    if (!files.length && event.target.closest?.("input, textarea")) return;
    event.preventDefault();
    take(files);
  });
  for (const button of document.querySelectorAll(".example")) {
    button.addEventListener("click", () => openExample(button, open, refuse));
  }
}

async function openExample(button, open, refuse) {
  const { example, class: label } = button.dataset;
  try {
    const response = await fetch(example);
    if (!response.ok) throw new TypeError();
    open([{ name: example.split("/").at(-1), blob: await response.blob(), url: example, label: Number(label), example: button }]);
  } catch {
    refuse(`The example for ${CLASSES[label]} cannot be loaded. Check that the service runs and that you are online.`);
  }
}

/** The picture as JPEG of at most 1,024 pixels a side, or null if this browser cannot decode it. */
export async function converted(picture, reason) {
  const image = new Image(); // it reads SVG as well, which createImageBitmap does not
  image.src = picture.url;
  try {
    await image.decode();
  } catch {
    return null;
  }
  const scale = Math.min(1, LARGEST_SIDE / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // behind transparent pixels, which JPEG does not have
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
  const name = `${picture.name.replace(/\.\w+$/, "")}.jpg`;
  return blob && pictureOf(blob, name, {
    converted: `${reason} So this browser converted it to a JPEG of ${canvas.width}×${canvas.height} pixels.`,
  });
}
