/** The distillation recipe. Defaults are the paper's (arXiv 2403.09334, section 4.2) where it states them. */

import { BatchSize, StackEntry, StackFile } from '@attune/core';
import { z } from 'zod';

import { type Weighting, weightings } from './sds.ts';

const weightingNames = Object.keys(weightings) as [Weighting, ...Weighting[]];

/** Where a program's inputs come from: input or port → field of the data (`text.…` fields are prompts). */
const View = z.record(z.string(), z.string());

export const GuidanceConfig = z.strictObject({
  /** uncond + scale · (cond − uncond); 1 is none. */
  scale: z.number().default(1),
  /** Inputs left out of the unconditional branch: prompts become empty, anything else zero. */
  drop: z.array(z.string()).default(['encoder_hidden_states']),
  /**
   * A step before that, from a branch that leaves out more: as InstructPix2Pix goes from nothing to the image
   * and from the image to both (Brooks et al. 2023, equation 3).
   */
  before: z.strictObject({ scale: z.number(), drop: z.array(z.string()).min(1) }).optional(),
  /** Share of the conditional output's deviation put back (Lin et al. 2024, §3.4). */
  rescale: z.number().min(0).max(1).default(0),
});

export const CriticConfig = z.strictObject({
  /** Sites of the frozen teacher whose values the heads read. */
  features: z.array(z.string()).min(1).default(['mid:unet.mid_block']),
  /** Channels of each head. */
  width: z.int().positive().default(64),
  /** Heads mix the frames of a clip. */
  temporal: z.boolean().default(false),
  /** Generated and real latents are noised to times in this share of T before they are read. */
  range: z.tuple([z.number(), z.number()]).default([0, 0.7]),
  lr: z.number().positive().default(2e-4),
  betas: z.tuple([z.number(), z.number()]).default([0, 0.99]),
  /**
   * hinge as in the paper; softplus, the logistic form; relativistic, the logistic form of
   * D(real) − D(generated) in pairs of one prompt and one noise (Jolicoeur-Martineau 2018), which what
   * both have in common cannot move: for small batches.
   */
  loss: z.enum(['hinge', 'softplus', 'relativistic']).default('hinge'),
  /** Of the generator's term: −D, or the form the paper prints, which vanishes where D < −1. */
  generator: z.enum(['linear', 'printed']).default('linear'),
  /** Scales the adversarial cotangent to this share of the SDS one's RMS; 0 leaves it. */
  balance: z.number().nonnegative().default(0),
});

/** What the score of the student's own samples is learned with, on top of the teacher's stack. */
export const FakeConfig = z.strictObject({
  /** Adapters added to the teacher's; those that say `train: true` learn. */
  adapters: z.array(StackEntry).min(1),
  /**
   * Share of the residual that is taken against the fake score; the rest is taken against the noise. 1 is
   * variational score distillation, 0 leaves the plain kind.
   */
  share: z.number().min(0).max(1).default(1),
  /** Noisings of each generated sample that it learns from in a step. */
  draws: z.int().positive().default(1),
  /** Times it learns at, as shares of T. */
  range: z.tuple([z.number(), z.number()]).default([0.02, 0.98]),
  lr: z.number().positive().default(3e-4),
  betas: z.tuple([z.number(), z.number()]).default([0.9, 0.999]),
});
/** The same, checked. */
export type FakeConfig = z.infer<typeof FakeConfig>;

/**
 * Delta denoising score (Hertz et al. 2023): the teacher's residual on the unedited original, at the same time
 * and noise, is subtracted. What the teacher would change there as well, its bias and its blur, does not pull.
 */
export const DeltaConfig = z.strictObject({
  /** Field of the data with the originals, [N·F, 3, H, W] in [0, 1]; `first_frame` is then their own. */
  of: z.string().default('source'),
  /** What the teacher is shown of the original, where it differs from its view. */
  view: View.default({}),
  /** Inputs left out of all branches then: an instruction becomes empty. */
  drop: z.array(z.string()).default([]),
  /** Share of that residual that is subtracted. */
  share: z.number().min(0).max(1).default(1),
});
/** The same, checked. */
export type DeltaConfig = z.infer<typeof DeltaConfig>;

/** One teacher: its stack, what it is shown of the data, and the terms by which it pulls. */
export const TeacherConfig = z.strictObject({
  stack: StackFile,
  view: View,
  /** α or β of the paper; may be negative. */
  weight: z.number().default(0.5),
  guidance: GuidanceConfig.prefault({}),
  /** λ times the score-distillation term; false leaves it out. */
  sds: z
    .union([
      z.literal(false),
      z.strictObject({
        lambda: z.number().default(2.5),
        weighting: z.enum(weightingNames).default('add'),
        range: z.tuple([z.number(), z.number()]).default([0.02, 0.98]),
        samples: z.int().positive().default(1),
      }),
    ])
    .prefault({}),
  fake: z.union([z.literal(false), FakeConfig]).default(false),
  delta: z.union([z.literal(false), DeltaConfig]).default(false),
  critic: z.union([z.literal(false), CriticConfig]).default(false),
  /** How its samples ("real") are made. */
  sampling: z
    .strictObject({
      steps: z.int().positive().default(8),
      guidance: z.number().optional(),
    })
    .prefault({}),
});
/** The same with all defaults filled in. */
export type TeacherConfig = z.infer<typeof TeacherConfig>;

/** Makes the field `first_frame` of the data: the latents of each clip's first frame as a teacher samples it. */
export const FirstFrameConfig = z.strictObject({
  teacher: z.string(),
  steps: z.int().positive().default(16),
  /** Default: the teacher's own. */
  guidance: z.number().optional(),
});
export type FirstFrameConfig = z.infer<typeof FirstFrameConfig>;

/**
 * A stretch of the steps, and which terms count in it. The paper has two: score distillation alone, then
 * with critics.
 */
export const Phase = z.strictObject({
  /** First step that no longer belongs to it. */
  until: z.int().positive(),
  sds: z.boolean().default(true),
  adversarial: z.boolean().default(false),
  /** False: only critics and fake scores learn, from what the student makes. */
  student: z.boolean().default(true),
});

/** The same with all defaults filled in. */
export type Phase = z.infer<typeof Phase>;

/** The `distill` part of a recipe. The optimiser is AdamW; `clip` is the largest global norm of a gradient. */
export const DistillConfig = z
  .strictObject({
    student: z.strictObject({ stack: StackFile, view: View }),
    teachers: z.record(z.string(), TeacherConfig),
    first_frame: FirstFrameConfig.optional(),
    rollout: z
      .strictObject({
        /** k of the paper. */
        steps: z.int().positive().default(3),
        /** One random time per bin, evenly spaced times, or k uniform draws. */
        bins: z.enum(['k-bin', 'fixed', 'random']).default('k-bin'),
        /** First time: the terminal one, or drawn from its bin (the paper's literal reading). */
        first: z.enum(['terminal', 'uniform']).default('terminal'),
        grad: z
          .union([
            z.literal('all'),
            z.literal('detach-input'),
            z.strictObject({ last: z.int().positive() }),
          ])
          .default('all'),
        /**
         * What the backward pass computes again; `auto`: the least that keeps the forward values of one
         * micro-batch within `memory`. A number of the recipe and not of the machine, so that a run
         * resumed elsewhere ends in the same bytes.
         */
        remat: z.enum(['auto', 'none', 'step', 'segment']).default('auto'),
        /** GiB. */
        memory: z.number().positive().default(2),
      })
      .prefault({}),
    phases: z
      .array(Phase)
      .min(1)
      .prefault([
        { until: 1000, sds: true, adversarial: false },
        { until: 1500, sds: true, adversarial: true },
      ]),
    /** Clips per optimiser step, and per micro-batch. */
    batch: BatchSize.default(64),
    micro: BatchSize.default(1),
    lr: z.number().positive().default(1e-5),
    betas: z.tuple([z.number(), z.number()]).default([0.9, 0.999]),
    weight_decay: z.number().nonnegative().default(0.01),
    clip: z.number().nonnegative().default(10),
    ema: z.number().min(0).max(1).default(0),
    seed: z.int().nonnegative().default(0),
  })
  .superRefine((config, context) => {
    if (Object.keys(config.teachers).length === 0)
      context.addIssue({
        code: 'custom',
        path: ['teachers'],
        message: 'name at least one teacher',
      });
    if ('first_frame' in config.teachers)
      context.addIssue({
        code: 'custom',
        path: ['teachers', 'first_frame'],
        message: 'names a field of the data; call the teacher something else',
      });
    for (const [id, { fake, delta }] of Object.entries(config.teachers))
      if (fake && delta)
        context.addIssue({
          code: 'custom',
          path: ['teachers', id, 'delta'],
          message: 'a residual is taken against a fake score or against an original; leave one out',
        });
    const editor = config.first_frame?.teacher;
    if (editor !== undefined && !config.teachers[editor])
      context.addIssue({
        code: 'custom',
        path: ['first_frame', 'teacher'],
        message: `there is no teacher ${editor}; there are ${Object.keys(config.teachers).join(', ')}`,
      });
    if (config.batch % config.micro)
      context.addIssue({
        code: 'custom',
        path: ['micro'],
        message: `${config.batch} clips do not split into micro-batches of ${config.micro}`,
      });
    const ends = config.phases.map(({ until }) => until);
    if (ends.some((end, i) => i > 0 && end <= ends[i - 1]))
      context.addIssue({
        code: 'custom',
        path: ['phases'],
        message: 'each must end after the one before',
      });
    const adversarial = config.phases.some((phase) => phase.adversarial);
    const critics = Object.values(config.teachers).some((teacher) => teacher.critic);
    if (adversarial && !critics)
      context.addIssue({
        code: 'custom',
        path: ['phases'],
        message: 'a phase is adversarial, but no teacher has a critic',
      });
  });
/** The same with all defaults filled in. */
export type DistillConfig = z.infer<typeof DistillConfig>;
