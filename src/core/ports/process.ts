/** Tells whether a controller's process has ended, without waiting for its beat to stand still. */
export interface ProcessIdentity {
  /** This process, as its controller's record names it. */
  readonly own: string;
  /**
   * Whether that process is known to have ended. False when it runs, and when that cannot be told from here (another machine,
   * another namespace of processes).
   */
  hasEnded(identity: string): Promise<boolean>;
}
