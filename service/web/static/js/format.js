// Numbers as people read them; the same rules as service/web/units.py, so that live figures look like drawn ones.

export const NONE = "–";
const missing = (value) => value === null || value === undefined;

/** So many significant digits, no exponent: 17.9, 0.842, 1,520. */
export function significant(value, digits = 3) {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return "∞";
  const rounded = Number(value.toExponential(digits - 1));
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(rounded))));
  return grouped(rounded, places);
}

export function latency(seconds) {
  if (missing(seconds)) return NONE;
  if (!Number.isFinite(seconds)) return "∞";
  for (const [factor, unit] of [[1, "s"], [1e3, "ms"], [1e6, "µs"]]) {
    if (Number((seconds * factor).toExponential(2)) >= 1) return `${significant(seconds * factor)} ${unit}`;
  }
  return seconds > 0 ? `${significant(seconds * 1e6)} µs` : "0 s";
}

export const ms = (milliseconds) => (missing(milliseconds) ? NONE : latency(milliseconds / 1e3));

export function speedup(ratio) {
  if (missing(ratio)) return NONE;
  return ratio < 3 ? `${ratio.toFixed(2)}×` : ratio < 99.95 ? `${ratio.toFixed(1)}×` : `${grouped(ratio, 0)}×`;
}

export function duration(seconds) {
  if (missing(seconds)) return NONE;
  if (seconds < 0.95) return `${Math.max(seconds, 0).toFixed(1)} s`;
  const whole = Math.round(seconds);
  for (const [large, name, small, part] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole >= large) {
      const rest = Math.floor((whole % large) / small);
      return rest ? `${Math.floor(whole / large)} ${name} ${rest} ${part}` : `${Math.floor(whole / large)} ${name}`;
    }
  }
  return `${whole} s`;
}

export const count = (number) => (missing(number) ? NONE : grouped(Math.round(number), 0));

export function bytes(number) {
  if (missing(number)) return NONE;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (number < 999.5) return unit === "B" ? `${number.toFixed(0)} B` : `${significant(number)} ${unit}`;
    number /= 1024;
  }
  return `${significant(number)} TiB`;
}

export function percent(share) {
  if (missing(share)) return NONE;
  const value = share * 100;
  return value >= 99.95 || value === 0 ? `${value.toFixed(0)}%` : `${value.toFixed(1)}%`;
}

export function gflops(number) {
  if (missing(number)) return NONE;
  return number >= 999.5 ? `${significant(number / 1e3)} TFLOP/s` : `${significant(number)} GFLOP/s`;
}

export function error(number) {
  if (missing(number)) return NONE;
  if (number === 0) return "0";
  if (!Number.isFinite(number)) return "∞";
  const [mantissa, exponent] = number.toExponential(0).split("e");
  return `${mantissa}e${Number(exponent)}`;
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** How long ago a moment (ISO text) is, coarsely. */
export function ago(iso, now = Date.now()) {
  if (!iso) return NONE;
  const seconds = (now - Date.parse(iso)) / 1000;
  if (seconds < 60) return "just now";
  for (const [limit, factor, unit] of [[3600, 60, "min"], [86400, 3600, "h"], [14 * 86400, 86400, "d"]]) {
    if (seconds < limit) return `${Math.floor(seconds / factor)} ${unit} ago`;
  }
  return new Date(iso).toISOString().slice(0, 10);
}

function grouped(number, places) {
  const [whole, part] = number.toFixed(places).split(".");
  const apart = whole.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  return part ? `${apart}.${part}` : apart;
}
