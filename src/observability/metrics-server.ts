import { lstat, unlink } from 'node:fs/promises';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Metrics } from './metrics.js';

/** Serves GET /metrics. */
export interface MetricsServer {
  /** Where it listens, with the port that was taken. */
  readonly address: string;
  stop(): Promise<void>;
}

/**
 * Starts to serve the metrics.
 * @param address "unix:/path" or "host:port"; the configuration has seen to it that it is this host
 * @throws Error when it cannot listen there
 */
export async function startMetricsServer(metrics: Metrics, address: string): Promise<MetricsServer> {
  const server = createServer((request, response) => {
    const known = request.method === 'GET' && request.url?.split('?')[0] === '/metrics';
    if (!known) {
      answer(response, 404, 'text/plain', 'There is only GET /metrics here.\n');
      return;
    }
    metrics.render().then(
      ({ text, contentType }) => answer(response, 200, contentType, text),
      () => answer(response, 500, 'text/plain', 'The metrics could not be collected.\n'),
    );
  });
  server.requestTimeout = 10_000;
  const path = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined;
  // A controller that was killed left its socket; the API's own listener has already shown that no other one lives.
  if (path !== undefined && (await lstat(path).catch(() => undefined))?.isSocket()) await unlink(path);
  const [, host, port] = /^(.*):([0-9]+)$/.exec(address) ?? [];
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    const listening = (): void => {
      server.off('error', reject);
      resolve();
    };
    if (path !== undefined) server.listen(path, listening);
    else server.listen(Number(port), host?.replace(/^\[(.*)\]$/, '$1'), listening);
  });
  return {
    address: path === undefined ? `${host}:${(server.address() as AddressInfo).port}` : address,
    async stop() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function answer(response: ServerResponse, status: number, contentType: string, text: string): void {
  response.writeHead(status, { 'content-type': contentType });
  response.end(text);
}
