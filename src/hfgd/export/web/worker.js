// The model, beside the page: everything that takes long happens in here. The runtime
// stands before it in the same script and is called ort.
let session, facts;

function tell(what, values = {}, moved = []) {
  self.postMessage({ what, ...values }, moved);
}

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

/** base64 of gzip → bytes, telling how far it is. */
async function unpack(text, size, name) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(size);
  const reader = stream.getReader();
  let at = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    bytes.set(part.value, at);
    at += part.value.length;
    tell("progress", { name, done: at / size });
  }
  return bytes;
}

async function load({ wasm, model, facts: told }) {
  facts = told;
  ort.env.wasm.numThreads = 1; // more need headers that a file on disk cannot have
  ort.env.wasm.wasmBinary = (await unpack(wasm, facts.wasmBytes, "Unpacking the runtime")).buffer;
  const bytes = await unpack(model, facts.modelBytes, "Unpacking the model");
  tell("progress", { name: "Starting the model" });
  session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
}

/** RGBA → labels; sides below the smallest that the model takes are filled with the mean colour. */
async function label({ pixels, width, height }) {
  const [tall, wide] = [Math.max(height, facts.smallest[0]), Math.max(width, facts.smallest[1])];
  const planes = new Uint8Array(3 * tall * wide);
  for (let c = 0; c < 3; c++) {
    const plane = planes.subarray(c * tall * wide, (c + 1) * tall * wide).fill(facts.fill[c]);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) plane[y * wide + x] = pixels[4 * (y * width + x) + c];
    }
  }
  const image = new ort.Tensor("uint8", planes, [1, 3, tall, wide]);
  const began = performance.now();
  const outputs = await session.run({ image }, ["labels"]);
  const seconds = (performance.now() - began) / 1000;
  const all = await outputs.labels.getData();
  const labels = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    labels.set(all.subarray(y * wide, y * wide + width), y * width);
  }
  outputs.labels.dispose();
  tell("labels", { labels, width, height, seconds }, [labels.buffer]);
}

self.onmessage = async ({ data }) => {
  try {
    if (data.what === "load") {
      await load(data);
      tell("ready");
    } else {
      await label(data);
    }
  } catch (error) {
    tell("failed", { message: String(error?.message ?? error) });
  }
};
