/** Objective of a classifier: the cross-entropy of each of its heads. */

import {
  add,
  argmax,
  cast,
  equal,
  input,
  logSoftmax,
  mean,
  mul,
  reshape,
  sum,
  type Tensor,
  values,
  where,
} from '@attune/engine';
import { z } from 'zod';

import type { Objective } from './objective.ts';

/** Outputs of a net with this prefix are heads: unnormalised log-probabilities [N, classes]. */
const prefix = 'logits.';

/** What a recipe may say under `objective: { use: classify }`. */
export const ClassifyOptions = z.strictObject({
  /** Reads `pixels`; its outputs `logits.<head>` are the heads. */
  net: z.string(),
  /** Weights of heads in the loss; 1 by default. */
  weights: z.record(z.string(), z.number().nonnegative()).default({}),
});
/** Those options with their defaults filled in. */
export type ClassifyOptions = z.infer<typeof ClassifyOptions>;

/** Inputs: the net's own and `label.<head>` i64 [N]; a label of −1 stands for an unknown one. */
export const classify = ({ net, weights }: ClassifyOptions): Objective => ({
  trace: (run) => {
    const outputs = Object.entries(run(net)).filter(([name]) => name.startsWith(prefix));
    const heads = outputs.map(([name, logits]) => ({ name: name.slice(prefix.length), logits }));
    const scores = heads.map(({ name, logits }) => ({ name, ...score(name, logits) }));
    return {
      loss: scores
        .map(({ name, loss }) => mul(loss, weights[name] ?? 1))
        .reduce((total, one) => add(total, one)),
      metrics: Object.fromEntries(scores.map(({ name, right }) => [`right.${name}`, right])),
    };
  },
});

/** Mean cross-entropy of one head, and the share of rows whose largest logit is the label's. */
function score(name: string, logits: Tensor): { loss: Tensor; right: Tensor } {
  const [rows, classes] = logits.shape;
  const label = cast(input(`label.${name}`, [rows], { dtype: 'i64' }), 'f32');
  const ids = Float32Array.from({ length: classes }, (_, i) => i);
  const chosen = equal(reshape(label, [rows, 1]), values(ids, [1, classes]));
  const likelihood = mean(sum(where(chosen, logSoftmax(logits), 0), [1]));
  const guess = cast(argmax(logits, 1), 'f32');
  return { loss: mul(likelihood, -1), right: mean(cast(equal(guess, label), 'f32')) };
}
