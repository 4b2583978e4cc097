/**
 * Score distillation in v-form. With r = v̂ − v, every weighting of SDS is W(t) · r: no division,
 * finite at every t including zero terminal SNR. (Poole et al. 2022; ADD, Sauer et al. 2023 §3.3.)
 */

/** α = √ᾱ and σ of a timestep: α² + σ² = 1. */
export interface Level {
  readonly alpha: number;
  readonly sigma: number;
}

/** Named weightings W(t) of the v-residual; the pull on x₀ is W · (v̂ − v). */
export const weightings = {
  /** w(t) = σ² on ε̂ − ε (DreamFusion). */
  dreamfusion: ({ alpha, sigma }: Level) => sigma * sigma * alpha,
  /** w(t) = 1 on ε̂ − ε. */
  uniform: ({ alpha }: Level) => alpha,
  /** c(t) = α on ‖x′ − x̂₀‖² (adversarial diffusion distillation, "exponential"). */
  add: ({ alpha, sigma }: Level) => 2 * alpha * sigma,
  /** c(t) = ½: pulls toward the conditional mean at every t. */
  x0: ({ sigma }: Level) => sigma,
  /** √ᾱ (1 − ᾱ) on ε̂ − ε (Fantasia3D). */
  fantasia: ({ alpha, sigma }: Level) => alpha * alpha * sigma * sigma,
} as const;

/** The name of a weighting. */
export type Weighting = keyof typeof weightings;

/** x_t = α x₀ + σ ε, written into a fresh array. */
export function diffuse(
  x0: Float32Array,
  noise: Float32Array,
  { alpha, sigma }: Level,
): Float32Array {
  return x0.map((x, i) => alpha * x + sigma * noise[i]);
}

/** v = α ε − σ x₀. */
export function velocity(
  x0: Float32Array,
  noise: Float32Array,
  { alpha, sigma }: Level,
): Float32Array {
  return x0.map((x, i) => alpha * noise[i] - sigma * x);
}

/** What a teacher's velocity is compared with: that of the draw, or in part a given one. */
export interface Draw {
  readonly x0: Float32Array;
  readonly noise: Float32Array;
  readonly baseline?: Float32Array;
  /** Of the baseline; the rest is the draw's own. Default 1. */
  readonly share?: number;
}

/** Adds scale · W(t) · (v̂ − v) to `into`: the SDS cotangent of x₀ for one draw of (t, ε). */
export function addSds(
  into: Float32Array,
  predicted: Float32Array,
  { x0, noise, baseline, share = baseline ? 1 : 0 }: Draw,
  level: Level,
  { weighting, scale }: { readonly weighting: Weighting; readonly scale: number },
): void {
  const { alpha, sigma } = level;
  const weight = scale * weightings[weighting](level);
  for (let i = 0; i < into.length; i++) {
    const v = alpha * noise[i] - sigma * x0[i];
    const target = baseline ? v + share * (baseline[i] - v) : v;
    into[i] += weight * (predicted[i] - target);
  }
}
