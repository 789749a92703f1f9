import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

/*
 * Who may import whom: what keeps the core free of gRPC and Ceph, a node's part free of the controller's, and native code
 * and child processes in few places. Types count too: a type is a dependency.
 */

/** Of each part of src/: which other parts it may import, as folders or files (without .js) below src/. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  generated: [],
  descriptor: [],
  pki: [],
  tls: [],
  core: [],
  store: ['core/ports', 'core/model', 'core/errors'],
  backends: ['core/ports', 'core/model', 'core/errors', 'generated'],
  sealing: ['core/ports', 'core/errors', 'descriptor'],
  observability: ['core'],
  config: ['core'],
  rpc: ['core', 'generated', 'tls'],
  agents: ['generated'],
  client: ['generated', 'tls'],
  'storage-utils': ['descriptor'],
  cli: ['client', 'storage-utils', 'descriptor'],
  // Composes all; nothing imports it, because no part lists it.
  bin: [
    ...['agents', 'backends', 'cli', 'client', 'config', 'core', 'descriptor'],
    ...['observability', 'pki', 'rpc', 'sealing', 'storage-utils', 'store'],
  ],
};

/** Modules that only some folders may import. */
const kept: readonly { readonly modules: RegExp; readonly folders: readonly string[] }[] = [
  { modules: /^koffi$/, folders: ['agents/rbd/librbd', 'storage-utils/libvirt'] },
  { modules: /^(better-sqlite3|node:sqlite)$/, folders: ['store/sqlite'] },
  { modules: /^(redis|ioredis|@redis\/.*)$/, folders: ['store/redis'] },
  { modules: /^@peculiar\//, folders: ['pki'] },
  { modules: /^node:(child_process|cluster)$/, folders: ['storage-utils/host', 'backends', 'agents'] },
  {
    modules: /^(@grpc\/.*|grpc-health-check|nice-grpc.*|protobufjs)(\/|$)/,
    folders: ['agents', 'backends', 'bin', 'client', 'generated', 'rpc', 'tls'],
  },
];

/** One import of a file below src/. */
interface Import {
  /** Path of the importing file below src/. */
  readonly file: string;
  /** As written; undefined when it is computed. */
  readonly specifier: string | undefined;
}

/** The imports of a file's text: static, dynamic, of types, re-exports, require. */
function importsOf(file: string, text: string): readonly Import[] {
  // Comments may speak of imports.
  const code = text.replace(/^\s*(\/\/|\/\*|\*).*$/gm, '');
  const statics = [...code.matchAll(/^(?:import|export)\b(?:[^;'"]*?\bfrom)?\s*(['"])([^'"\n]+)\1/gm)];
  const dynamics = [...code.matchAll(/(?<![.\w])(?:import|require)\s*\(\s*(?:(['"`])([^'"`\n$]+)\1\s*[,)])?/g)];
  return [...statics, ...dynamics].map((match) => ({ file, specifier: match[2] }));
}

const isInside = (path: string, folder: string) => path === folder || path.startsWith(`${folder}/`);
const partOf = (path: string) => path.split('/')[0] ?? '';

/** What is wrong with an import; undefined when nothing is. */
function violation({ file, specifier }: Import, declared: ReadonlySet<string>): string | undefined {
  if (specifier === undefined) return `${file}: imports what is only known when it runs`;
  if (specifier.startsWith('.')) return internalViolation(file, specifier);
  for (const { modules, folders } of kept) {
    if (modules.test(specifier) && !folders.some((folder) => isInside(file, folder))) {
      return `${file}: ${specifier} is only for ${folders.join(', ')}`;
    }
  }
  if (specifier.startsWith('node:')) return undefined;
  if (builtinModules.includes(specifier)) return `${file}: write node:${specifier}`;
  if (partOf(file) === 'core') return `${file}: the core imports no package (${specifier})`;
  const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
  return declared.has(name) ? undefined : `${file}: ${name} is no dependency in package.json`;
}

function internalViolation(file: string, specifier: string): string | undefined {
  const target = normalize(join(dirname(file), specifier));
  if (target.startsWith('..')) return `${file}: ${specifier} is outside of src`;
  if (!target.endsWith('.js') && !target.endsWith('.json')) return `${file}: ${specifier} must end in .js`;
  const [from, to] = [partOf(file), partOf(target)];
  const allowed = mayImport[from];
  if (allowed === undefined) return `${file}: this test has no rule for src/${from}`;
  if (from !== to) {
    const path = target.replace(/\.js(on)?$/, '');
    return allowed.some((folder) => isInside(path, folder)) ? undefined : `${file}: ${from} may not import ${target}`;
  }
  // One agent knows nothing of another; what they share lies directly in agents/.
  const [ofAgent, ofOther] = [file.split('/'), target.split('/')];
  if (from !== 'agents' || ofOther.length === 2 || ofAgent[1] === ofOther[1]) return undefined;
  return `${file}: an agent, or what agents share, may not import ${target}`;
}

function violationsOf(imports: readonly Import[], declared: ReadonlySet<string>): readonly string[] {
  const found = imports.flatMap((one) => violation(one, declared) ?? []);
  const starters = imports.filter(
    ({ file, specifier }) => specifier === 'node:child_process' && partOf(file) === 'agents',
  );
  const files = [...new Set(starters.map(({ file }) => file))];
  if (files.length > 1) found.push(`child processes are for one helper of the agents, not for ${files.join(', ')}`);
  return found;
}

describe('who may import whom', () => {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { dependencies: object };
  const declared = new Set(Object.keys(manifest.dependencies));

  it('holds for every file below src', () => {
    const source = join(root, 'src');
    const files = readdirSync(source, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
      .map((entry) => relative(source, join(entry.parentPath, entry.name)));
    expect(files).to.include('core/ports/store.ts');
    const imports = files.flatMap((file) => importsOf(file, readFileSync(join(source, file), 'utf8')));
    expect(imports.length).to.be.greaterThan(files.length / 2);
    expect(violationsOf(imports, declared).join('\n')).to.equal('');
  });

  it('sees every way to import, and no comment', () => {
    const text = [
      "import { a } from './a.js';",
      "import type {\n  B,\n  C,\n} from './b.js';",
      'import "./c.js";',
      "export * from './d.js';",
      "export type { E } from './e.js';",
      "const f = await import('./f.js');",
      "type G = typeof import('./g.js');",
      "const h = require('./h.js');",
      'const i = await import(name);',
      "// import('./no.js')",
      " * import { no } from './no.js';",
      "export const text = 'taken from';",
      'store.import(something);',
    ].join('\n');
    expect(importsOf('x.ts', text).map(({ specifier }) => specifier)).to.have.members([
      ...['./a.js', './b.js', './c.js', './d.js', './e.js', './f.js', './g.js', './h.js'],
      undefined,
    ]);
  });

  const cases: readonly [file: string, specifier: string, allowed: boolean][] = [
    ['core/journal/journal.ts', '../ports/store.js', true],
    ['core/journal/journal.ts', 'node:crypto', true],
    ['core/journal/journal.ts', '../../store/sqlite/index.js', false],
    ['core/journal/journal.ts', '../../generated/moorage/v1/Volume.js', false],
    ['core/journal/journal.ts', 'zod', false],
    ['core/journal/journal.ts', '../../../package.json', false],
    ['store/sqlite/store.ts', '../../core/errors.js', true],
    ['store/sqlite/store.ts', '../../core/journal/journal.js', false],
    ['store/sqlite/store.ts', 'better-sqlite3', true],
    ['store/redis/store.ts', 'better-sqlite3', false],
    ['backends/supervisor.ts', 'node:child_process', true],
    ['backends/client.ts', '../core/services/types.js', false],
    ['rpc/mapping/volume.ts', '../../generated/moorage/v1/Volume.js', true],
    ['rpc/server.ts', '../store/sqlite/index.js', false],
    ['rpc/server.ts', '../backends/client.js', false],
    ['sealing/vault.ts', '../core/ports/sealer.js', true],
    ['sealing/vault.ts', '../core/services/types.js', false],
    ['agents/rbd/librbd/image.ts', 'koffi', true],
    ['agents/rbd/agent.ts', 'koffi', false],
    ['agents/rbd/agent.ts', '../../core/errors.js', false],
    ['agents/rbd/agent.ts', '../protocol.js', true],
    ['agents/rbd/agent.ts', '../iscsi/target.js', false],
    ['agents/protocol.ts', './rbd/agent.js', false],
    ['descriptor/seal.ts', '../core/errors.js', false],
    ['descriptor/seal.ts', 'tweetnacl', true],
    ['descriptor/seal.ts', 'crypto', false],
    ['storage-utils/connect.ts', '../descriptor/index.js', true],
    ['storage-utils/connect.ts', '../core/errors.js', false],
    ['storage-utils/connect.ts', '../generated/moorage/v1/Volume.js', false],
    ['storage-utils/connect.ts', '@grpc/grpc-js', false],
    ['storage-utils/host/exec.ts', 'node:child_process', true],
    ['storage-utils/connectors/rbd.ts', 'node:child_process', false],
    ['client/index.ts', '../core/services/types.js', false],
    ['cli/main.ts', '../client/index.js', true],
    ['cli/main.ts', '../core/errors.js', false],
    ['cli/main.ts', '../generated/moorage/v1/Volume.js', false],
    ['bin/moorage.ts', '../cli/main.js', true],
    ['cli/main.ts', '../bin/moorage.js', false],
    ['rpc/server.ts', 'left-pad', false],
    ['rpc/server.ts', 'mocha', false],
    ['rpc/server.ts', './unary', false],
    ['elsewhere/new.ts', './other.js', false],
  ];
  for (const [file, specifier, allowed] of cases) {
    it(`${allowed ? 'allows' : 'refuses'} ${specifier} in ${file}`, () => {
      expect(violationsOf([{ file, specifier }], declared)).to.have.length(allowed ? 0 : 1);
    });
  }

  it('leaves child processes to one helper of the agents', () => {
    const starting = (file: string): Import => ({ file, specifier: 'node:child_process' });
    expect(violationsOf([starting('agents/exec.ts'), starting('agents/exec.ts')], declared)).to.deep.equal([]);
    expect(violationsOf([starting('agents/exec.ts'), starting('agents/rbd/agent.ts')], declared)).to.have.length(1);
  });
});
