import { type ChannelCredentials, Client, status } from '@grpc/grpc-js';
import { ErrorInfo } from 'nice-grpc-error-details';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';
import { services as definitions } from '../../src/rpc/definitions.js';

/** How a call ended. */
export interface RawAnswer {
  readonly code: status;
  readonly details: string;
  /** Of a stream: its first message. */
  readonly response: Record<string, unknown> | undefined;
  readonly requestId: string;
  /** google.rpc.ErrorInfo: its reason and its facts; empty for OK. */
  readonly reason: string;
  readonly facts: Readonly<Record<string, string>>;
}

/**
 * Calls any method of the API by its path once, on a connection of its own, and answers also when it fails. A stream is
 * cancelled after its first message, which then counts as OK.
 */
export function callRaw(
  address: string,
  security: ChannelCredentials,
  path: string,
  request: object,
  milliseconds = 60_000,
): Promise<RawAnswer> {
  const method = Object.values(definitions)
    .flatMap((definition) => Object.values(definition))
    .find((each) => each.path === path);
  if (method === undefined) throw new Error(`There is no method ${path}.`);
  const client = new Client(address, security, { 'grpc.enable_retries': 0, 'grpc.use_local_subchannel_pool': 1 });
  const serialize = (value: object): Buffer => method.requestSerialize(value as never);
  const deserialize = method.responseDeserialize as (bytes: Buffer) => Record<string, unknown>;
  const options = { deadline: Date.now() + milliseconds };
  return new Promise<RawAnswer>((resolve) => {
    let response: Record<string, unknown> | undefined;
    const call = method.responseStream
      ? client.makeServerStreamRequest(path, serialize, deserialize, request, options)
      : client.makeUnaryRequest(path, serialize, deserialize, request, options, (_error, answer) => {
          response = answer;
        });
    if (method.responseStream) {
      call.on('error', () => undefined);
      call.on('data', (message: Record<string, unknown>) => {
        response ??= message;
        call.cancel();
      });
    }
    call.on('status', (result) => {
      const bytes = result.metadata.get('grpc-status-details-bin')[0];
      const details = Buffer.isBuffer(bytes) ? Status.decode(bytes).details : [];
      const found = details.find((each) => each.typeUrl.endsWith('ErrorInfo'))?.value;
      const info = found === undefined ? undefined : ErrorInfo.decode(found);
      const requestId = String(result.metadata.get('x-request-id')[0] ?? '');
      const cut = method.responseStream && response !== undefined;
      const code = cut ? status.OK : result.code;
      const told = { reason: info?.reason ?? '', facts: info?.metadata ?? {} };
      setImmediate(() => resolve({ code, details: result.details, response, requestId, ...told }));
    });
  }).finally(() => client.close());
}
