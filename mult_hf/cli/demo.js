// Shows the values of the maps at the pixel under the mouse. The server sends all numbers once; moving the mouse makes no request.
// `demo.py` sets this as the `js_on_load` of the line below the button, so that Gradio runs it once with `element`, `props` and `watch`
// (https://www.gradio.app/guides/custom-HTML-components). Text is inserted as text, never as HTML: the model's author chose the names.

let numbers = null; // values of the maps on the page, one map after another, each (channels, height, width)

watch("value", async () => {
  const value = props.value;
  numbers = null;
  try {
    const { body, ok, statusText } = await fetch(value.file.url);
    if (!ok) throw new Error(statusText);
    const buffer = await new Response(body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
    if (value.file.url !== props.value.file.url) return; // other maps have arrived in the meantime
    numbers = new Float32Array(buffer);
    read(value.width >> 1, value.height >> 1);
  } catch (error) {
    element.textContent = `The values of the maps could not be fetched (${error.message}). Press Predict again.`;
  }
});

for (const kind of ["pointermove", "pointerdown"]) { // the second is for touch screens
  document.addEventListener(kind, (event) => {
    const image = event.target.closest?.(".map img");
    if (numbers === null || !image?.naturalWidth) return;
    const { width, height } = props.value;
    const box = image.getBoundingClientRect(); // the image is centred, reduced to fit but never enlarged
    const pixel = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight, 1) * (image.naturalWidth / width);
    const column = Math.floor((event.clientX - box.left - (box.width - width * pixel) / 2) / pixel);
    const row = Math.floor((event.clientY - box.top - (box.height - height * pixel) / 2) / pixel);
    if (0 <= column && column < width && 0 <= row && row < height) read(column, row);
  });
}

// Write each map's value at a pixel into its caption.
function read(column, row) {
  const { width, height, channels } = props.value;
  let position = row * width + column;
  for (const [task, count] of channels) {
    const values = Array.from({ length: count }, (_, channel) => numbers[position + channel * height * width]);
    for (const place of document.querySelectorAll(`.map-caption [data-task="${task}"]`)) {
      place.textContent = describe(values, props.class_names[task]);
    }
    position += count * height * width;
  }
  element.textContent = `Pixel ${column} from the left, ${row} from the top`;
}

// A class's name, or numbers with three digits.
function describe(values, classNames) {
  if (classNames) return classNames[values[0]] ?? props.unknown;
  return values.every(Number.isFinite) ? values.map((value) => Number(value.toPrecision(3))).join(", ") : props.unknown;
}

// Name what Gradio leaves without a name, for screen readers; the page changes with every prediction.
function nameControls() {
  const name = (found, text) => {
    if (found && found.getAttribute("aria-label") !== text) found.setAttribute("aria-label", text);
  };
  for (const tile of document.querySelectorAll(".tile")) {
    const task = tile.querySelector("[data-task]")?.dataset.task;
    const image = tile.querySelector(".map img");
    if (!task || !image) continue;
    if (image.alt !== task) image.alt = task;
    name(image.closest("button"), `map of ${task}`);
    name(tile.querySelector("a.download-link"), `download the map of ${task}`);
  }
  document.querySelectorAll("button.gallery-item").forEach((button, number) => name(button, `example ${number + 1}`));
  for (const link of document.querySelectorAll("a[download]:not([aria-label])")) if (!link.textContent.trim()) name(link, "download");
}

let isWaiting = false;
new MutationObserver(() => {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    nameControls();
  });
}).observe(document.body, { childList: true, subtree: true });
nameControls();
