import { isIP } from 'node:net';
import { z } from 'zod';
import { duration, size } from './units.js';

/*
 * Every setting of the controller, once. examples/controller.yaml explains them; a test holds that none is missing there.
 * Durations are milliseconds and sizes are bytes once they are read; names are those of the file.
 */

const path = z.string().min(1, 'must be a path');
const wholeNumber = (least: number, most: number) =>
  z
    .int({ error: `must be a whole number from ${least} to ${most}` })
    .min(least, `must be at least ${least}`)
    .max(most, `must be at most ${most}`);
const name = z.string().regex(/^[a-z0-9][a-z0-9.-]{0,62}$/, 'must be 1 to 63 characters out of a-z, 0-9, "-" and "."');
const cephUser = z
  .string()
  .regex(/^[A-Za-z0-9_.-]+$/, 'must be a Ceph user')
  .refine((user) => !user.startsWith('client.'), 'must be without "client."');
const role = z.enum(['admin', 'node', 'reader'], { error: 'must be admin, node or reader' });

/** Longest path of a unix socket in bytes (sun_path of Linux, without its end). */
const LONGEST_SOCKET_PATH = 107;

const address = z.string().superRefine((text, context) => {
  const problem = text.startsWith('unix:') ? socketProblem(text.slice('unix:'.length)) : hostProblem(text);
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
});

function socketProblem(socket: string): string | undefined {
  if (!socket.startsWith('/')) return 'must be unix: and an absolute path, as unix:/run/moorage/moorage.sock';
  const length = Buffer.byteLength(socket);
  return length > LONGEST_SOCKET_PATH
    ? `the path of a unix socket has at most ${LONGEST_SOCKET_PATH} bytes; this one has ${length}`
    : undefined;
}

function hostProblem(text: string): string | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})$/.exec(text);
  const right = match !== null && Number(match[3]) <= 65_535 && (match[1] === undefined || isIP(match[1]) === 6);
  return right ? undefined : 'must be unix:/path, host:port or [address]:port';
}

function isLoopback(text: string): boolean {
  const host = text.replace(/:[0-9]+$/, '').replace(/^\[(.*)\]$/, '$1');
  return (isIP(host) === 4 && host.startsWith('127.')) || host === '::1' || host === 'localhost';
}

const listener = z
  .strictObject({
    address,
    tls: z.strictObject({ certificate: path, key: path, client_ca: path }).optional(),
    enrollment: z.strictObject({ certificate: path, key: path }).optional(),
    plaintext: z
      .strictObject({
        role,
        socket_mode: z
          .string({ error: 'must be octal digits in quotes, as "0660"' })
          .regex(/^0?[0-7]{3}$/, 'must be octal digits in quotes, as "0660"')
          .default('0600'),
      })
      .optional(),
  })
  .superRefine((value, context) => {
    if ([value.tls, value.enrollment, value.plaintext].filter((each) => each !== undefined).length !== 1) {
      context.addIssue({ code: 'custom', message: 'must have one of tls, enrollment and plaintext' });
    }
    if (value.plaintext !== undefined && !value.address.startsWith('unix:') && !isLoopback(value.address)) {
      context.addIssue({
        code: 'custom',
        path: ['plaintext'],
        message: 'is for loopback addresses and unix sockets only; give this listener tls',
      });
    }
  });

const server = z.string().superRefine((text, context) => {
  const problem = text.startsWith('unix:') ? 'must be host:port or [address]:port' : hostProblem(text);
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
});

const redisAccess = {
  user: z.string().min(1, 'must be a Redis user').optional(),
  password_file: path.optional(),
};
const needsPassword = {
  path: ['password_file'],
  error: 'is required with a user: the file that holds the password of that user',
};
const hasPassword = (value: { user?: string | undefined; password_file?: string | undefined }): boolean =>
  value.user === undefined || value.password_file !== undefined;

const redis = z
  .strictObject({
    server: server.optional(),
    sentinel: z
      .strictObject({
        name: z.string().min(1, 'must be the name of the primary at the Sentinels'),
        servers: z.array(server, { error: 'must be a list of Sentinels' }).min(1, 'must name the Sentinels'),
        ...redisAccess,
      })
      .refine(hasPassword, needsPassword)
      .optional(),
    ...redisAccess,
    tls: z
      .strictObject({ ca: path, certificate: path.optional(), key: path.optional() })
      .refine((value) => (value.certificate === undefined) === (value.key === undefined), {
        error: 'must have both certificate and key, or neither',
      })
      .optional(),
    prefix: z
      .string()
      .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}:$/, 'must be letters, digits, "." , "_" and "-", and end with ":"')
      .default('moorage:'),
    replicas: wholeNumber(0, 16).default(1),
    persistence: z
      .enum(['always', 'everysec', 'unchecked'], { error: 'must be always, everysec or unchecked' })
      .default('always'),
    commit_timeout: duration('100ms', '1min').default(5000),
    call_timeout: duration('50ms', '1min').default(2000),
    replica_timeout: duration('50ms', '1min').default(2000),
  })
  .refine((value) => (value.server === undefined) !== (value.sentinel === undefined), {
    error: 'must have either server or sentinel',
  })
  .refine(hasPassword, needsPassword)
  .refine((value) => value.replica_timeout < value.commit_timeout, {
    path: ['replica_timeout'],
    error: 'must be less than commit_timeout, so that a commit outlives the loss of a replica',
  });

const cephAccess = z.strictObject({ user: cephUser, keyring: path });

const settings = z.strictObject({
  listeners: z.array(listener, { error: 'must be a list of at least one listener' }).min(1, 'must have a listener'),
  store: z
    .strictObject({ sqlite: z.strictObject({ path }).optional(), redis: redis.optional() })
    .refine((value) => (value.sqlite === undefined) !== (value.redis === undefined), {
      error: 'must have either sqlite or redis',
    })
    .prefault({ sqlite: { path: '/var/lib/moorage/store.db' } }),
  master_key: z
    .strictObject({ file: path.optional(), file_descriptor: wholeNumber(3, 1023).optional() })
    .refine((value) => (value.file === undefined) !== (value.file_descriptor === undefined), {
      error: 'must have either file or file_descriptor',
    }),
  descriptor_key: path.default('/var/lib/moorage/descriptor.key'),
  backup_directory: path.optional(),
  state_directory: path.default('/var/lib/moorage'),
  run_directory: path.default('/run/moorage'),
  clusters: z
    .record(name, z.strictObject({ ceph_configuration: path, data: cephAccess, fence: cephAccess }))
    .default({}),
  journal: z
    .strictObject({
      beat_timeout: duration('100ms', '5min').default(10_000),
      step_timeout: duration('100ms', '1h').default(60_000),
      retry_limit: duration('10ms', '5min').default(5000),
    })
    .prefault({}),
  deadlines: z
    .strictObject({
      default: duration('10ms', '1h').default(60_000),
      maximum: duration('10ms', '1h').default(600_000),
    })
    .prefault({}),
  reaper: z
    .strictObject({
      interval: duration('50ms', '1d').default(60_000),
      concurrency: wholeNumber(1, 64).default(4),
      sweep_interval: duration('1s', '30d').default(3_600_000),
    })
    .prefault({}),
  limits: z
    .strictObject({
      message_size: size('4KiB', '64MiB').default(1024 ** 2),
      concurrent_calls: wholeNumber(1, 100_000).default(1024),
      running_operations: wholeNumber(1, 100_000).default(512),
      watches: wholeNumber(1, 10_000).default(256),
      watches_per_caller: wholeNumber(1, 10_000).default(32),
      clone_depth: wholeNumber(1, 14).default(14),
      flatten_depth: wholeNumber(1, 15).default(8),
    })
    .prefault({}),
  agents: z
    .strictObject({
      threads: wholeNumber(4, 1024).default(96),
      lane: wholeNumber(1, 512).default(32),
      lane_queue: wholeNumber(0, 100_000).default(1000),
      osd_timeout: duration('1s', '10min').default(30_000),
      pool_interval: duration('100ms', '1h').default(10_000),
    })
    .refine((value) => value.lane < value.threads, {
      path: ['lane'],
      error: 'must be less than threads, so that a stuck pool does not take the threads of another',
    })
    .refine((value) => value.osd_timeout % 1000 === 0, { path: ['osd_timeout'], error: 'must be whole seconds' })
    .prefault({}),
  watch: z
    .strictObject({
      retention: duration('1s', '30d').default(86_400_000),
      bookmark_interval: duration('100ms', '1h').default(10_000),
    })
    .prefault({}),
  fencing: z.strictObject({ cut_off_expiry: duration('1d', '365d').default(30 * 86_400_000) }).prefault({}),
  metrics: z
    .strictObject({
      address: address
        .refine((text) => text.startsWith('unix:') || isLoopback(text), {
          error: 'must be a loopback address or a unix socket: metrics are served without a password',
        })
        .optional(),
    })
    .prefault({}),
  enrollment: z
    .strictObject({
      authority: z.strictObject({ certificate: path, key: path }).optional(),
      certificate_lifetime: duration('1min', '3650d').default(90 * 86_400_000),
    })
    .prefault({}),
  audit: z.strictObject({ file: path.optional() }).prefault({}),
  log: z
    .strictObject({
      level: z
        .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], {
          error: 'must be trace, debug, info, warn, error, fatal or silent',
        })
        .default('info'),
    })
    .prefault({}),
  shutdown: z.strictObject({ drain: duration('0s', '1h').default(20_000) }).prefault({}),
});

/** The configuration, as the file has it. */
export const configurationSchema = settings.refine(
  ({ store, journal }) => store.redis === undefined || store.redis.commit_timeout * 2 <= journal.beat_timeout,
  {
    path: ['store', 'redis', 'commit_timeout'],
    error:
      'must be at most half of journal.beat_timeout: a controller that waits for a commit must know in time that it is lost',
  },
);

/** The configuration of a controller, checked and complete. */
export type Configuration = z.output<typeof configurationSchema>;
