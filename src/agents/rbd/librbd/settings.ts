import { readFileSync } from 'node:fs';
import { nameOfErrno } from './errors.js';

/*
 * What a connection needs from files, read once: an agent that has entered its empty root opens further connections
 * without any.
 */

/** The names of the options that a ceph.conf sets in any section, with "_" between their words. What they are librados says. */
export function optionNames(text: string): readonly string[] {
  const names = [...text.matchAll(/^[ \t]*([A-Za-z][A-Za-z0-9_ \t-]*?)[ \t]*=/gm)];
  return [...new Set(names.map(([, name = '']) => name.toLowerCase().replaceAll(/[ \t_-]+/g, '_')))];
}

/**
 * A user's key, from a keyring.
 * @param user without "client."
 * @throws Error without the file's text
 */
export function readKey(keyringFile: string, user: string): string {
  let text: string;
  try {
    text = readFileSync(keyringFile, 'utf8');
  } catch (error) {
    const { errno, code } = error as NodeJS.ErrnoException;
    throw new Error(`keyring ${keyringFile} cannot be read: ${code ?? nameOfErrno(errno ?? 0)}`);
  }
  let mine = false;
  for (const line of text.split('\n')) {
    const section = /^\s*\[(.+)\]\s*$/.exec(line)?.[1];
    if (section !== undefined) mine = section.trim() === `client.${user}`;
    const key = mine ? /^\s*key\s*=\s*(\S+)\s*$/.exec(line)?.[1] : undefined;
    if (key !== undefined) return key;
  }
  throw new Error(`keyring ${keyringFile} has no key of client.${user}`);
}
