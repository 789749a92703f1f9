import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import {
  backendObserver,
  callObserver,
  coreEvents,
  createLogger,
  createMetrics,
  startMetricsServer,
} from '../../src/observability/index.js';

const cephxKey = `AQ${'B'.repeat(36)}==`;
const descriptor = `moorage-descriptor-v1:TVJHRAE${'x'.repeat(80)}`;

function capture(level = 'trace') {
  const lines: string[] = [];
  const logger = createLogger(level, { write: (line: string) => void lines.push(line) });
  return { logger, lines, parsed: () => lines.map((line) => JSON.parse(line) as Record<string, unknown>) };
}

describe('observability', () => {
  describe('the log', () => {
    it('is one JSON object a line, with time and level', () => {
      const { logger, lines, parsed } = capture();
      logger.info({ volume: 'vol-1' }, 'made\nit');
      expect(lines[0]?.trimEnd()).not.to.contain('\n');
      expect(parsed()[0]).to.include({ level: 'info', volume: 'vol-1', msg: 'made\nit' });
      expect(Date.parse(String(parsed()[0]?.time))).to.be.within(Date.now() - 60_000, Date.now());
    });

    it('takes secrets out by the names of fields, at every depth', () => {
      const { logger, lines } = capture();
      const secret = 'hunter2';
      logger.info({
        key: secret,
        sealedAccess: secret,
        chap_secret: secret,
        Password: secret,
        plan: { access_json: secret, list: [{ passphrase: secret }], 'master-key': secret },
        descriptor: secret,
        keyring: '/etc/ceph/keyring',
      });
      expect(lines[0]).not.to.contain(secret);
      expect(lines[0]).to.contain('/etc/ceph/keyring');
    });

    it('takes secrets out by what they look like, in messages, fields, errors and their causes', () => {
      const { logger, lines } = capture();
      const pem = '-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----';
      logger.info(`user has ${cephxKey}`);
      logger.info({ detail: `x ${cephxKey} y ${descriptor} z ${pem} w` });
      logger.error({ err: new Error(`outer ${cephxKey}`, { cause: new Error(`inner ${descriptor}`) }) });
      const text = lines.join('');
      expect(text).not.to.contain(cephxKey).and.not.to.contain('TVJHRAE').and.not.to.contain('MHcCAQEE');
      expect(text).to.contain('outer').and.to.contain('inner').and.to.contain('y [redacted] z');
    });

    it('keeps the causes of an error and not what a library hung on it, and no bytes', () => {
      const { logger, parsed } = capture();
      const error = Object.assign(new Error('top', { cause: new Error('below') }), {
        request: { key: 'k' },
        code: 'EIO',
      });
      logger.error({ err: error, bytes: Buffer.from('secret bytes') }, 'failed');
      const line = parsed()[0] as { err: Record<string, unknown>; bytes: string };
      expect(line.err).to.include({ message: 'top', code: 'EIO' });
      expect(line.err.cause).to.include({ message: 'below' });
      expect(line.err).not.to.have.property('request');
      expect(line.bytes).to.equal('[12 bytes]');
    });

    it('writes what the core has to say', () => {
      const { logger, parsed } = capture();
      coreEvents(logger).notice({ level: 'warn', message: 'odd', fields: { op: 'op-1' }, error: new Error('why') });
      expect(parsed()[0]).to.include({ level: 'warn', msg: 'odd', op: 'op-1' });
      expect(parsed()[0]?.err).to.include({ message: 'why' });
    });
  });

  describe('the metrics', () => {
    async function text(metrics: ReturnType<typeof createMetrics>) {
      return (await metrics.render()).text;
    }

    it('count calls by method and code, with a histogram, and write one line for each', async () => {
      const metrics = createMetrics();
      const { logger, parsed } = capture();
      const observer = callObserver(logger, metrics);
      const method = '/moorage.v1.PoolService/GetPool';
      observer.callBegan(method);
      expect(await text(metrics)).to.contain('moorage_rpc_calls_running 1');
      const call = {
        ...{ peer: '127.0.0.1:1', subjects: {}, audited: false },
        requestId: 'r1',
        method,
        principal: 'alice',
        role: 'admin',
        milliseconds: 3,
        message: '',
      };
      observer.callEnded({ ...call, code: 'OK' });
      observer.callBegan(method);
      observer.callEnded({ ...call, code: 'INTERNAL', message: 'Something' });
      const rendered = await text(metrics);
      expect(rendered).to.contain(`moorage_rpc_calls_total{method="${method}",code="OK"} 1`);
      expect(rendered).to.contain(`moorage_rpc_call_seconds_bucket{le="0.005",method="${method}"} 2`);
      expect(rendered).to.contain('moorage_rpc_calls_running 0');
      expect(parsed()).to.have.length(2);
      expect(parsed()[0]).to.include({ request_id: 'r1', principal: 'alice', code: 'OK', ms: 3, level: 'info' });
      expect(parsed()[1]).to.include({ code: 'INTERNAL', level: 'warn' });
    });

    it('count operations, the journal, the reaper, backend calls and restarts of agents', async () => {
      const metrics = createMetrics();
      const { logger } = capture();
      const backend = backendObserver(logger, metrics);
      metrics.core.operationEnded('volume.create', 'succeeded', 12);
      metrics.core.journalLength(7);
      metrics.core.reaperPass({ purged: 3, failed: 1, waiting: 2, milliseconds: 50 });
      const agent = { cluster: 'main', role: 'data', message: 'm' } as const;
      backend.agentEvent({ ...agent, kind: 'started', processId: 1 });
      backend.agentEvent({ ...agent, kind: 'ready' });
      expect(await text(metrics)).to.contain('moorage_agent_restarts_total{cluster="main",role="data"} 0');
      expect(await text(metrics)).to.contain('moorage_agent_ready{cluster="main",role="data"} 1');
      backend.agentEvent({ ...agent, kind: 'died', error: new Error('killed') });
      backend.agentEvent({ ...agent, kind: 'started', processId: 2 });
      backend.callEnded({ ...agent, method: 'CreateImage', outcome: 'unknown', code: 'UNAVAILABLE', milliseconds: 9 });
      const rendered = await text(metrics);
      for (const line of [
        'moorage_operations_total{kind="volume.create",outcome="succeeded"} 1',
        'moorage_journal_operations 7',
        'moorage_reaper_images_total{outcome="purged"} 3',
        'moorage_reaper_waiting_images 2',
        'moorage_agent_restarts_total{cluster="main",role="data"} 1',
        'moorage_agent_ready{cluster="main",role="data"} 0',
        'moorage_backend_calls_total{cluster="main",role="data",method="CreateImage",outcome="unknown"} 1',
      ]) {
        expect(rendered).to.contain(line);
      }
    });

    it('are not served in the place of a file that is no socket', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'moorage-metrics-'));
      try {
        const path = join(folder, 'store.db');
        writeFileSync(path, 'precious');
        const failed = await startMetricsServer(createMetrics(), `unix:${path}`).catch((error: unknown) => error);
        expect(failed).to.have.property('code', 'EADDRINUSE');
        expect(readFileSync(path, 'utf8')).to.equal('precious');
      } finally {
        rmSync(folder, { recursive: true });
      }
    });

    it('are served at GET /metrics alone, on a port and on a unix socket', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'moorage-metrics-'));
      try {
        const metrics = createMetrics();
        for (const address of ['127.0.0.1:0', `unix:${join(folder, 'metrics.sock')}`]) {
          const server = await startMetricsServer(metrics, address);
          const at = server.address.startsWith('unix:')
            ? { socketPath: server.address.slice(5) }
            : { host: '127.0.0.1', port: Number(server.address.split(':')[1]) };
          const get = (method: string, path: string) =>
            new Promise<{ status: number | undefined; text: string }>((resolve, reject) => {
              request({ ...at, method, path }, (response) => {
                let body = '';
                response.on('data', (chunk: Buffer) => {
                  body += chunk.toString();
                });
                response.on('end', () => resolve({ status: response.statusCode, text: body }));
              })
                .on('error', reject)
                .end();
            });
          expect((await get('GET', '/metrics')).text).to.contain('moorage_journal_operations');
          expect((await get('GET', '/')).status).to.equal(404);
          expect((await get('POST', '/metrics')).status).to.equal(404);
          await server.stop();
        }
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  });
});
