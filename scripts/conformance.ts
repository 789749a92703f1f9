import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

/*
 * Runs the conformance suite of the backend protocol against an agent that runs already. Ends with 0 when it conforms.
 */
const USAGE = `Usage: npm run conformance -- --data TARGET --fence TARGET --setting KEY=VALUE … [--hold COMMAND]

  --data TARGET      where the role "data" is served, as gRPC spells it: unix:/run/agent.sock, or 127.0.0.1:7000
  --fence TARGET     where the role "fence" is served; may be the same
  --setting K=V      the backend's own settings of a pool, as ceph_pool=test; may be repeated. Use a pool that holds
                     nothing else: the suite makes and purges images of its own in it
  --hold COMMAND     program (and arguments, separated by spaces) that holds an image open as a node would; see
                     test/contract/agent-conformance/README.md. Without it the tests that need one are left out

The agent must not be in use by a controller. The connection is not encrypted: reach a remote agent through a tunnel.
`;

function fail(message: string): never {
  process.stderr.write(`conformance: ${message}\n\n${USAGE}`);
  process.exit(2);
}

function readArguments() {
  try {
    return parseArgs({
      options: {
        data: { type: 'string' },
        fence: { type: 'string' },
        setting: { type: 'string', multiple: true, default: [] },
        hold: { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values;
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

const given = readArguments();
if (given.help) {
  process.stdout.write(USAGE);
  process.exit(0);
}
if (given.data === undefined) fail('--data is missing');
if (given.fence === undefined) fail('--fence is missing');
const settings = Object.fromEntries(
  given.setting.map((setting) => {
    const at = setting.indexOf('=');
    if (at <= 0) fail(`--setting: ${JSON.stringify(setting)} must be KEY=VALUE`);
    return [setting.slice(0, at), setting.slice(at + 1)];
  }),
);
const hold = given.hold?.split(' ').filter((part) => part !== '');
const target = { data: given.data, fence: given.fence, settings, ...(hold === undefined ? {} : { hold }) };

const root = fileURLToPath(new URL('..', import.meta.url));
const suite = 'test/contract/agent-conformance/standalone.ts';
const mocha = spawn(
  process.execPath,
  ['--import', 'tsx', 'node_modules/mocha/bin/mocha.js', '--no-config', '--exit', suite],
  { cwd: root, stdio: 'inherit', env: { ...process.env, MOORAGE_CONFORMANCE: JSON.stringify(target) } },
);
mocha.once('error', (error) => fail(`mocha cannot be started: ${error.message}`));
mocha.once('exit', (code) => process.exit(code ?? 1));
