import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { type Configuration, configurationSchema } from './schema.js';

/** The configuration cannot be used. One line for each thing that is wrong. */
export class ConfigurationError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[], options?: ErrorOptions) {
    super(problems.length === 1 ? problems[0] : problems.map((problem) => `- ${problem}`).join('\n'), options);
    this.name = 'ConfigurationError';
    this.problems = problems;
  }
}

/** Where settings come from; later ones win: file, environment, flags. */
export interface Sources {
  /** Path of the YAML file. Paths in it are relative to its folder. */
  readonly file: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** As "log.level=debug", in the order given. */
  readonly flags: readonly string[];
}

const PREFIX = 'MOORAGE_';

/** Whether a variable is meant for the controller: others of that prefix belong to the `moorage` command and to scripts. */
function isSetting(path: readonly string[]): boolean {
  return path.length > 1 || (path[0] ?? '') in configurationSchema.shape;
}

/**
 * Reads and checks the configuration.
 * @throws {ConfigurationError} that names each wrong setting, where it comes from, and what would be right
 */
export function loadConfiguration({ file, environment, flags }: Sources): Configuration {
  const raw = readFile(file);
  const origins = new Map<string, string>();
  for (const [variable, text] of Object.entries(environment)) {
    const path = variable.slice(PREFIX.length).toLowerCase().split('__');
    if (text === undefined || !variable.startsWith(PREFIX) || !isSetting(path)) continue;
    assign(raw, path, parseYaml(text, `the environment variable ${variable}`), variable);
    origins.set(path.join('.'), `environment variable ${variable}`);
  }
  for (const flag of flags) {
    const equals = flag.indexOf('=');
    if (equals < 1) throw new ConfigurationError([`--set ${flag}: must be setting=value, as log.level=debug`]);
    const path = flag.slice(0, equals).split('.');
    assign(raw, path, parseYaml(flag.slice(equals + 1), `--set ${flag}`), `--set ${flag}`);
    origins.set(path.join('.'), '--set');
  }
  const parsed = configurationSchema.safeParse(raw);
  if (!parsed.success) {
    throw new ConfigurationError(parsed.error.issues.map((issue) => describe(issue, file, origins)));
  }
  return withAbsolutePaths(parsed.data, dirname(resolve(file)));
}

type Raw = Record<string, unknown>;

function readFile(file: string): Raw {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    throw new ConfigurationError([`the configuration ${file} cannot be read: ${code}`], { cause });
  }
  const value = parseYaml(text, file);
  if (value === null || value === undefined) return {};
  if (typeof value !== 'object' || Array.isArray(value)) {
    throw new ConfigurationError([`${file}: must be settings, as "log: {level: info}"`]);
  }
  return value as Raw;
}

function parseYaml(text: string, origin: string): unknown {
  const document = parseDocument(text, { prettyErrors: true, uniqueKeys: true });
  if (document.errors.length > 0) {
    // Without the lines that the parser quotes after its sentence: a mistaken path may lead to a keyring.
    const sentence = ({ message }: Error): string => (message.split('\n')[0] ?? '').replace(/:$/, '');
    throw new ConfigurationError(document.errors.map((error) => `${origin}: ${sentence(error)}`));
  }
  return document.toJS();
}

function assign(raw: Raw, path: readonly string[], value: unknown, origin: string): void {
  let target = raw;
  for (const key of path.slice(0, -1)) {
    const next = Object.hasOwn(target, key) ? target[key] : undefined;
    if (next !== undefined && (typeof next !== 'object' || next === null || Array.isArray(next))) {
      throw new ConfigurationError([`${origin}: ${key} has no settings under it`]);
    }
    const child = (next as Raw | undefined) ?? {};
    Object.defineProperty(target, key, { value: child, enumerable: true, configurable: true, writable: true });
    target = child;
  }
  const last = path.at(-1) ?? '';
  Object.defineProperty(target, last, { value, enumerable: true, configurable: true, writable: true });
}

function describe(issue: z.core.$ZodIssue, file: string, origins: ReadonlyMap<string, string>): string {
  const path = issue.path.map(String);
  const place = path.join('.');
  if (issue.code === 'unrecognized_keys') {
    const known = knownKeys(path);
    const unknown = issue.keys.map((key) => {
      const full = [...path, key].join('.');
      const setter = [...origins].find(([origin]) => origin.startsWith(`${full}.`));
      return `${setter?.[1] ?? from(full, file, origins)}: there is no setting ${JSON.stringify(full)}`;
    });
    return `${unknown.join('; ')}; there are ${known.join(', ')}`;
  }
  const missing = issue.code === 'invalid_type' && issue.input === undefined && issue.message.startsWith('Invalid');
  return `${from(place, file, origins)}: ${place === '' ? '' : `${place} `}${missing ? 'is required' : issue.message}`;
}

function from(place: string, file: string, origins: ReadonlyMap<string, string>): string {
  for (const [path, origin] of origins) if (place === path || place.startsWith(`${path}.`)) return origin;
  return file;
}

interface JsonSchema {
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly items?: JsonSchema;
  readonly additionalProperties?: JsonSchema | false;
}

/** Names of the settings at a place. */
function knownKeys(path: readonly string[]): string[] {
  let schema: JsonSchema | undefined = configurationJsonSchema();
  for (const key of path) {
    schema = schema?.properties?.[key] ?? schema?.items ?? (schema?.additionalProperties || undefined);
  }
  return Object.keys(schema?.properties ?? {});
}

/** The schema of the file, as JSON Schema: for messages, tests and editors. */
export function configurationJsonSchema(): JsonSchema {
  return z.toJSONSchema(configurationSchema, { io: 'input', unrepresentable: 'any' }) as JsonSchema;
}

/** Paths in the file are relative to it, so that a configuration can be moved with what it names. */
function withAbsolutePaths(configuration: Configuration, folder: string): Configuration {
  const absolute = (path: string): string => resolve(folder, path);
  const access = (value: { user: string; keyring: string }) => ({ ...value, keyring: absolute(value.keyring) });
  return {
    ...configuration,
    listeners: configuration.listeners.map(({ tls, enrollment, ...listener }) => ({
      ...listener,
      ...(tls && {
        tls: {
          certificate: absolute(tls.certificate),
          key: absolute(tls.key),
          client_ca: absolute(tls.client_ca),
        },
      }),
      ...(enrollment && {
        enrollment: { certificate: absolute(enrollment.certificate), key: absolute(enrollment.key) },
      }),
    })),
    enrollment: {
      ...configuration.enrollment,
      ...(configuration.enrollment.authority && {
        authority: {
          certificate: absolute(configuration.enrollment.authority.certificate),
          key: absolute(configuration.enrollment.authority.key),
        },
      }),
    },
    store: storeWithAbsolutePaths(configuration.store, absolute),
    master_key:
      configuration.master_key.file === undefined
        ? configuration.master_key
        : { file: absolute(configuration.master_key.file) },
    descriptor_key: absolute(configuration.descriptor_key),
    audit: configuration.audit.file === undefined ? {} : { file: absolute(configuration.audit.file) },
    backup_directory: absolute(configuration.backup_directory ?? join(configuration.state_directory, 'backup')),
    state_directory: absolute(configuration.state_directory),
    run_directory: absolute(configuration.run_directory),
    clusters: Object.fromEntries(
      Object.entries(configuration.clusters).map(([name, cluster]) => [
        name,
        {
          ceph_configuration: absolute(cluster.ceph_configuration),
          data: access(cluster.data),
          fence: access(cluster.fence),
        },
      ]),
    ),
  };
}

function storeWithAbsolutePaths(
  { sqlite, redis }: Configuration['store'],
  absolute: (path: string) => string,
): Configuration['store'] {
  const password = ({ password_file }: { password_file?: string | undefined }) =>
    password_file === undefined ? {} : { password_file: absolute(password_file) };
  return {
    ...(sqlite && { sqlite: { path: absolute(sqlite.path) } }),
    ...(redis && {
      redis: {
        ...redis,
        ...password(redis),
        ...(redis.sentinel && { sentinel: { ...redis.sentinel, ...password(redis.sentinel) } }),
        ...(redis.tls && {
          tls: {
            ca: absolute(redis.tls.ca),
            ...(redis.tls.certificate !== undefined && { certificate: absolute(redis.tls.certificate) }),
            ...(redis.tls.key !== undefined && { key: absolute(redis.tls.key) }),
          },
        }),
      },
    }),
  };
}
