/** Why a descriptor was refused; one word for programs, the message for people. */
export type DescriptorErrorCode =
  | 'not-a-descriptor'
  | 'truncated'
  | 'altered'
  | 'newer-version'
  | 'other-node'
  | 'unknown-sender'
  | 'expired'
  | 'too-large'
  | 'invalid-payload';

/** A descriptor that cannot be used. The message names what is wrong and what helps, and never holds a secret. */
export class DescriptorError extends Error {
  readonly code: DescriptorErrorCode;

  constructor(code: DescriptorErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'DescriptorError';
    this.code = code;
  }
}

/** Why a key file or a printed key was refused. */
export type KeyErrorCode = 'missing' | 'exists' | 'loose-mode' | 'wrong-owner' | 'malformed' | 'unreadable';

/** A key or key file that cannot be used. Names the file and the remedy, and never holds a secret. */
export class KeyError extends Error {
  readonly code: KeyErrorCode;

  constructor(code: KeyErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'KeyError';
    this.code = code;
  }
}
