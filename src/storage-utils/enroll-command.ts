/** The verbs `enroll` and `rotate-key` of the command. */
import { type Command, Option } from 'commander';
import { readSecret } from './command-input.js';
import { enroll, rotate } from './enroll.js';
import { StorageUtilsError } from './errors.js';
import type { Registrar } from './registrar.js';

/** Adds a verb with what all of them have. */
export type AddCommand = (usage: string, summary: string, example: string) => Command;

const DEFAULT_CERTIFICATE = '/etc/moorage/node.pem';
const DEFAULT_CERTIFICATE_KEY = '/etc/moorage/node.key';

interface Flags {
  readonly keyFile: string;
  readonly endpoint: string;
  readonly ca?: string;
  readonly cert: string;
  readonly key: string;
  readonly json?: boolean;
}

/** Adds them. */
export function addEnrollCommands(add: AddCommand, registrar: () => Promise<Registrar>): void {
  reaching(
    add(
      'enroll',
      'become a node: register the key of this machine, and get a certificate, with a token of the administrator',
      'storage-utils enroll --endpoint controller.example.net:7422 --ca ca.pem --token token',
    ),
  )
    .requiredOption('--token <file>', 'the file that the token is in, or "-" for stdin; never the token itself')
    .option('--no-certificate', 'register the key for descriptors alone')
    .action(async (flags: Flags & { token: string; certificate: boolean }) => {
      const token = (await readSecret(flags.token, 'the token')).trim();
      const result = await enroll(
        {
          nodeKeyFile: flags.keyFile,
          token,
          access: { endpoint: flags.endpoint, authorityFile: flags.ca },
          wantsCertificate: flags.certificate,
          certificateFile: flags.cert,
          keyFile: flags.key,
        },
        await registrar(),
      );
      print(flags, result, `this is the node ${result.nodeId} (key ${result.publicKeyId})`);
      if (flags.certificate && result.certificateFile === '') {
        note(`this controller signs no certificates: get one elsewhere, with CN ${result.nodeId} and OU node`);
      }
    });

  reaching(
    add(
      'rotate-key',
      'give this node another key for descriptors, or another certificate; what is attached goes on',
      'storage-utils rotate-key --endpoint controller.example.net:7420 --ca ca.pem',
    ),
  )
    .addOption(new Option('--what <what>', 'what to change').choices(['key', 'certificate', 'both']).default('key'))
    .option('--node <name>', 'this node, where its certificate does not say it (unix sockets, administrators)')
    .action(async (flags: Flags & { what: 'key' | 'certificate' | 'both'; node?: string }) => {
      if (flags.node === undefined && flags.ca === undefined) {
        throw new StorageUtilsError('usage', 'give --ca, or --node where there is no TLS');
      }
      const result = await rotate(
        {
          nodeKeyFile: flags.keyFile,
          access: { endpoint: flags.endpoint, authorityFile: flags.ca },
          certificateFile: flags.cert,
          keyFile: flags.key,
          rotatesKey: flags.what !== 'certificate',
          renewsCertificate: flags.what !== 'key',
          nodeId: flags.node,
        },
        await registrar(),
      );
      const until = result.certificateEnd === '' ? '' : `, certificate until ${result.certificateEnd}`;
      print(flags, result, `${result.nodeId}: key ${result.publicKeyId}${until}`);
    });
}

function reaching(command: Command): Command {
  return command
    .requiredOption(
      '--endpoint <address>',
      'the controller: host:port, [address]:port or unix:/path; several with commas',
    )
    .option('--ca <file>', 'who signed the certificate of the controller (PEM)')
    .option('--cert <file>', 'where the certificate of this node is (PEM)', DEFAULT_CERTIFICATE)
    .option('--key <file>', 'where the key of that certificate is (PEM, 0600)', DEFAULT_CERTIFICATE_KEY);
}

function print(flags: Flags, value: unknown, text: string): void {
  process.stdout.write(`${flags.json === true ? JSON.stringify(value) : text}\n`);
}

function note(text: string): void {
  process.stderr.write(`storage-utils: ${text}\n`);
}
