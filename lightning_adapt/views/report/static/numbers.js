// The inverse of numbers.py: figures as differences from step to step, byte by byte.

const FLOAT = 23;

/** What base64 text holds, decompressed. */
export async function inflated(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** A Float32Array of `steps` × `width` figures, of which `mantissa` bits of mantissa were kept. */
export function figures(buffer, steps, width, mantissa) {
  const bytes = new Uint8Array(buffer);
  const count = steps * width;
  const planes = Math.ceil((9 + mantissa) / 8);
  const whole = new Uint32Array(count);
  for (let at = 0; at < count; at += 1) {
    let number = 0;
    for (let plane = 0; plane < planes; plane += 1) number |= bytes[plane * count + at] << (8 * plane);
    const change = (number >>> 1) ^ -(number & 1);
    whole[at] = change + (at < width ? 0 : whole[at - width]);
  }
  const found = new Float32Array(count);
  const patterns = new Uint32Array(found.buffer);
  for (let at = 0; at < count; at += 1) patterns[at] = whole[at] << (FLOAT - mantissa);
  return found;
}

/** The number that a figure was rounded from, in as many decimal digits as are known. */
export function readable(value, mantissa) {
  if (mantissa === FLOAT || !Number.isFinite(value)) return value;
  return Number(value.toPrecision(Math.ceil((mantissa + 1) * Math.log10(2))));
}
