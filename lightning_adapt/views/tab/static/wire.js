// The inverse of wire.py: named arrays behind a short description.

const ARRAYS = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array };
const ALIGN = 8;

/** `{meta, arrays: {name: {data, shape}}}` of an ArrayBuffer; the arrays are views, nothing is copied. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  let at = 4 + length;
  for (const [name, dtype, shape] of head.arrays) {
    const count = shape.reduce((product, size) => product * size, 1);
    const data = new ARRAYS[dtype](buffer, at, count);
    arrays[name] = { data, shape };
    at += Math.ceil(data.byteLength / ALIGN) * ALIGN;
  }
  return { meta: head.meta, arrays };
}
