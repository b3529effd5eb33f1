// From a layer's little pictures to coloured pixels.
Page.layers = {
  VOID: 255,
  WRONG: [214, 26, 26],
  GAINED: [30, 140, 60],
  BOTH: [150, 150, 150],
  HOT: [[13, 8, 65], [114, 20, 110], [200, 62, 76], [246, 135, 38], [252, 255, 164]], // dark to bright

  // the values (0..255) of a picture that is named by a data: address
  async values(url) {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    context.drawImage(image, 0, 0);
    const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const values = new Uint8Array(rgba.length / 4);
    for (let i = 0; i < values.length; i++) values[i] = rgba[4 * i];
    return values;
  },

  // the values of a layer of an item, of one model where the layer is by model; null: there are none
  of(data, item, key, model) {
    const layer = data.layers.find((one) => one.key === key);
    const url = item.layers[layer && layer.byModel ? `${key}/${model}` : key];
    return url ? Page.layers.values(url) : null;
  },

  // Draw a layer of an item on a canvas. sides: numbers of the two models; side: whose it is, 0 or 1.
  async paint(canvas, data, item, layer, sides, side, chosenClass) {
    const read = (key, at) => Page.layers.of(data, item, key, sides[at]);
    const [height, width] = item.size;
    const parts = await Promise.all(
      layer.kind === "error" ? [read(layer.of[0], side), read(layer.of[1], side)]
      : layer.kind === "gain" ? [read(layer.of[0], 0), read(layer.of[1], 0), read(layer.of[1], 1)]
      : [read(layer.key, side)]);
    if (parts.some((part) => part === null)) return false;
    const colour = Page.layers[layer.kind](data, layer, parts, chosenClass);
    const picture = new ImageData(width, height);
    for (let i = 0, to = 0; i < width * height; i++, to += 4) colour(i, picture.data, to);
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").putImageData(picture, 0, 0);
    return true;
  },

  put(pixels, to, colour, alpha) {
    pixels[to] = colour[0];
    pixels[to + 1] = colour[1];
    pixels[to + 2] = colour[2];
    pixels[to + 3] = alpha;
  },

  labels(data, layer, [ids], chosenClass) {
    return (i, pixels, to) => {
      const id = ids[i];
      const dimmed = chosenClass >= 0 && id !== chosenClass;
      Page.layers.put(pixels, to, data.palette[id] || [0, 0, 0], dimmed ? 50 : 255);
    };
  },

  heat(data, layer, [values]) {
    const table = Page.layers.heatTable(layer.invert);
    return (i, pixels, to) => Page.layers.put(pixels, to, table[values[i]], 255);
  },

  heatTable(invert) {
    const stops = Page.layers.HOT;
    return Array.from({ length: 256 }, (_, value) => {
      const place = ((invert ? 255 - value : value) / 255) * (stops.length - 1);
      const low = Math.min(Math.floor(place), stops.length - 2);
      return stops[low].map((a, k) => Math.round(a + (place - low) * (stops[low + 1][k] - a)));
    });
  },

  error(data, layer, [truth, guess], chosenClass) {
    const { VOID, WRONG, put } = Page.layers;
    return (i, pixels, to) => {
      if (truth[i] === VOID) put(pixels, to, [0, 0, 0], 150);
      else if (truth[i] === guess[i]) put(pixels, to, WRONG, 0);
      else put(pixels, to, WRONG, chosenClass < 0 || [truth[i], guess[i]].includes(chosenClass) ? 255 : 60);
    };
  },

  gain(data, layer, [truth, first, second]) {
    const { VOID, WRONG, GAINED, BOTH, put } = Page.layers;
    return (i, pixels, to) => {
      const [a, b] = [first[i] === truth[i], second[i] === truth[i]];
      if (truth[i] === VOID) put(pixels, to, [0, 0, 0], 150);
      else if (a && b) put(pixels, to, WRONG, 0);
      else put(pixels, to, a ? WRONG : b ? GAINED : BOTH, 255);
    };
  },
};
