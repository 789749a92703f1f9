/** The API's edge: messages, callers and errors on one side, the core's use cases on the other. */
export type { CallObserver, EndedCall } from './interceptors/observe.js';
export { ListenError, type Listener, type RunningServer, type ServerOptions, startServer } from './server.js';
export type { CallEnvironment } from './unary.js';
