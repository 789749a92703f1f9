import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { runCommand } from '../../src/cli/index.js';
import { configurationJsonSchema, loadConfiguration } from '../../src/config/index.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const notOurs = new Set(['node_modules', '.git', '.dev', 'dist', 'coverage']);

/** Every page of the repository, by its path in it. */
const pages = new Map(pagesIn(root).map((path) => [relative(root, path), readFileSync(path, 'utf8')]));

function pagesIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return notOurs.has(entry.name) ? [] : pagesIn(path);
    return entry.name.endsWith('.md') ? [path] : [];
  });
}

const CODE_BLOCK = /^```.*\n([\s\S]*?)^```$/gm;

function codeBlocks(text: string): string[] {
  return [...text.matchAll(CODE_BLOCK)].map((match) => match[1] ?? '');
}

function withoutCodeBlocks(text: string): string {
  return text.replaceAll(CODE_BLOCK, '');
}

function inlineCode(text: string): string[] {
  return [...withoutCodeBlocks(text).matchAll(/`([^`\n]+)`/g)].map((match) => match[1] ?? '');
}

/** The anchors of a page's headings, as GitHub makes them. */
function anchors(text: string): string[] {
  return [...withoutCodeBlocks(text).matchAll(/^#+ (.*)$/gm)].map((match) =>
    (match[1] ?? '')
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

describe('the documentation', () => {
  it('links only to what is there', () => {
    const broken: string[] = [];
    let seen = 0;
    for (const [page, text] of pages) {
      for (const [, target = ''] of withoutCodeBlocks(text).matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(target)) continue;
        seen += 1;
        const [path = '', anchor] = target.split('#');
        const file = path === '' ? page : join(dirname(page), path);
        const right =
          existsSync(join(root, file)) &&
          (anchor === undefined || anchors(pages.get(file) ?? '').includes(decodeURIComponent(anchor)));
        if (!right) broken.push(`${page}: ${target}`);
      }
    }
    expect(seen).to.be.greaterThan(30);
    expect(broken).to.deep.equal([]);
  });

  it('has every page in an index', () => {
    const missing = [...pages.keys()].filter((page) => {
      if (!page.startsWith('docs/') || page.endsWith('/README.md')) return false;
      const index = page.startsWith('docs/decisions/') ? 'docs/decisions/README.md' : 'docs/README.md';
      return !(pages.get(index) ?? '').includes(`(${relative(dirname(index), page)})`);
    });
    expect(missing).to.deep.equal([]);
  });

  it('names settings that exist', () => {
    const unknown: string[] = [];
    let seen = 0;
    for (const [page, text] of pages) {
      for (const setting of settingsIn(text, page === 'docs/configuration.md')) {
        seen += 1;
        if (!isSetting(setting)) unknown.push(`${page}: ${setting}`);
      }
    }
    expect(seen).to.be.greaterThan(10);
    expect(unknown).to.deep.equal([]);
  });

  it('shows configurations that can be used', () => {
    const folder = mkdtempSync(join(tmpdir(), 'moorage-docs-'));
    try {
      let seen = 0;
      for (const text of pages.values()) {
        for (const [, configuration = ''] of text.matchAll(/<<'YAML'\n([\s\S]*?)^YAML$/gm)) {
          seen += 1;
          const file = join(folder, 'controller.yaml');
          writeFileSync(file, configuration);
          loadConfiguration({ file, environment: {}, flags: [] });
        }
      }
      expect(seen).to.be.greaterThan(1);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it('shows commands that exist, with options that they have', async () => {
    const wrong: string[] = [];
    const seen = new Set<string>();
    for (const [page, text] of pages) {
      for (const line of codeBlocks(text).flatMap((block) => block.split('\n'))) {
        for (const { program, words } of commandsOf(line)) {
          seen.add(program);
          const problem = await problemOf(program, words);
          if (problem !== undefined) wrong.push(`${page}: ${line.trim()}: ${problem}`);
        }
      }
    }
    expect(wrong).to.deep.equal([]);
    expect([...seen].sort()).to.deep.equal(['moorage', 'moorage-controller', 'storage-utils']);
  });
});

interface JsonSchema {
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly items?: JsonSchema;
  readonly additionalProperties?: JsonSchema | false;
}

function isSetting(dotted: string): boolean {
  let schema: JsonSchema | undefined = configurationJsonSchema();
  for (const key of dotted.split('.')) {
    schema = schema?.properties?.[key] ?? (schema?.additionalProperties || undefined);
  }
  return schema !== undefined || isSettingOfAListener(dotted);
}

/** `plaintext.role` stands for that setting of any listener. */
function isSettingOfAListener(dotted: string): boolean {
  let schema: JsonSchema | undefined = configurationJsonSchema().properties?.listeners?.items;
  for (const key of dotted.split('.')) schema = schema?.properties?.[key];
  return schema !== undefined;
}

/**
 * The settings that a page names: as `log.level`, in variables, and behind --set.
 * @param allDotted whether everything with a dot is one; otherwise only what begins like one
 */
function settingsIn(text: string, allDotted: boolean): string[] {
  const sections = Object.keys(configurationJsonSchema().properties ?? {});
  const dotted = inlineCode(text)
    .map((code) => /^([a-z_]+(?:\.[a-z_]+)+)(?:: .*)?$/.exec(code)?.[1] ?? '')
    .filter((code) => code !== '' && (allDotted || sections.includes(code.split('.')[0] ?? '')));
  const variables = [...text.matchAll(/\bMOORAGE_([A-Z_]*__[A-Z_]+)=/g)].map((match) =>
    (match[1] ?? '').toLowerCase().replaceAll('__', '.'),
  );
  const flags = [...text.matchAll(/--set ([a-z_.]+)=/g)].map((match) => match[1] ?? '');
  return [...dotted, ...variables, ...flags];
}

interface ShownCommand {
  readonly program: string;
  readonly words: readonly string[];
}

/** The commands of ours in a line of a code block; a line "group  a | b" shows several. */
function commandsOf(line: string): ShownCommand[] {
  const match =
    /^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:runuser .* -- )?(moorage|storage-utils|moorage-controller)\s+(.*)$/.exec(line);
  if (match === null) return [];
  const [, program = '', rest = ''] = match;
  const alternatives = /^([a-z]+)\s+([a-z]+(?: \| [a-z]+)+)(?:\s{2,}.*)?$/.exec(rest);
  if (alternatives !== null) {
    return (alternatives[2] ?? '').split(' | ').map((each) => ({ program, words: [alternatives[1] ?? '', each] }));
  }
  // What follows a comment, a wide gap (an explanation), a pipe or a redirection is not the command's.
  const own = rest.replace(/\s(?:#|[|>&;]|\s).*$/, '');
  return [{ program, words: own.split(/\s+/) }];
}

async function problemOf(program: string, words: readonly string[]): Promise<string | undefined> {
  const path: string[] = [];
  for (const word of words.filter((each) => /^[a-z][a-z-]*$/.test(each))) {
    const help = await helpOf(program, [...path, word]);
    if (!new RegExp(`^Usage: ${[program, ...path, word].join(' ')}\\b`).test(help)) continue;
    path.push(word);
  }
  // The controller serves without a subcommand; its options stand before one.
  const help = `${await helpOf(program, path)}${program === 'moorage-controller' ? await helpOf(program, []) : ''}`;
  const isGroup = program !== 'moorage-controller' && / \[command\]/.test(help.split('\n')[0] ?? '');
  if (isGroup && !words.includes('--help')) return `there is no such command under ${[program, ...path].join(' ')}`;
  if (program === 'moorage-controller' && path.length === 0) {
    const bare = words.filter(
      (word, index) => !word.startsWith('--') && !/^--(config|set)$/.test(words[index - 1] ?? ''),
    );
    if (bare.length > 0) return `there is no such command: ${bare.join(' ')}`;
  }
  const unknown = words.filter((word) => word.startsWith('--') && word !== '--help' && !hasOption(help, word));
  return unknown.length === 0 ? undefined : `no option ${unknown.join(', ')}`;
}

function hasOption(help: string, word: string): boolean {
  return new RegExp(`^  ${word.split('=')[0]}\\b`, 'm').test(help);
}

const helps = new Map<string, Promise<string>>();

/** What a command prints about itself; an unknown one prints its parent's. */
function helpOf(program: string, path: readonly string[]): Promise<string> {
  const key = [program, ...path].join(' ');
  const found = helps.get(key) ?? (program === 'moorage' ? helpInProcess(path) : helpOfProgram(program, path));
  helps.set(key, found);
  return found;
}

async function helpInProcess(path: readonly string[]): Promise<string> {
  let text = '';
  const write = (part: string): boolean => {
    text += part;
    return true;
  };
  const stream = { write } as NodeJS.WriteStream;
  await runCommand([...path, '--help'], {
    stdout: stream,
    stderr: stream,
    initialisePool: () => Promise.reject(new Error('not here')),
    authority: () => Promise.reject(new Error('not asked for')),
  });
  return text;
}

async function helpOfProgram(program: string, path: readonly string[]): Promise<string> {
  const script = join(root, 'src/bin', `${program}.ts`);
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', script, ...path, '--help'], {
    cwd: root,
  });
  return stdout;
}
