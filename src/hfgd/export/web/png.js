"use strict";
// Label maps as palette PNGs, whose pixel values are class numbers: written and read. A canvas knows
// colours only, and two classes may share one.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

async function through(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

function crcOf(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return ~crc >>> 0;
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set([...name].map((c) => c.charCodeAt(0)), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crcOf(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

/** A Blob: labels (height × width bytes) with the colours of `palette`, [[r, g, b], …]. */
async function writeLabels(labels, width, height, palette) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 3], 8); // 8 bits, palette
  const colours = new Uint8Array(768); // what no class has is black
  palette.forEach((colour, i) => colours.set(colour, 3 * i));
  const rows = new Uint8Array(height * (width + 1)); // each begins with its filter, none
  for (let y = 0; y < height; y++) {
    rows.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  }
  const packed = await through(rows, new CompressionStream("deflate"));
  const parts = [
    new Uint8Array(SIGNATURE), chunk("IHDR", header), chunk("PLTE", colours), chunk("IDAT", packed),
    chunk("IEND", new Uint8Array(0)),
  ];
  return new Blob(parts, { type: "image/png" });
}

/** {labels, width, height} of a palette PNG of 8 bits without filters, as the service writes them. */
async function readLabels(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const data = [];
  let width = 0, height = 0;
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + view.getUint32(at));
    if (name === "IHDR") {
      width = view.getUint32(at + 8);
      height = view.getUint32(at + 12);
      if (body[8] !== 8 || body[9] !== 3) throw new Error("the answer is no label map");
    }
    if (name === "IDAT") data.push(body);
  }
  const rows = await through(await new Blob(data).arrayBuffer(), new DecompressionStream("deflate"));
  const labels = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const start = y * (width + 1);
    if (rows[start] !== 0) throw new Error("the answer is filtered");
    labels.set(rows.subarray(start + 1, start + 1 + width), y * width);
  }
  return { labels, width, height };
}
