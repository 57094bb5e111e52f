//! `integration-bridge update`: replaces this program by a newer one that a trusted party has signed.
//!
//! ```text
//! FILE.manifest, FILE.sig --> signature --> product, target, version --> FILE --> size, SHA-256
//!   --> PROGRAM.new --> trial run --> PROGRAM becomes PROGRAM.previous, PROGRAM.new becomes PROGRAM --> restart
//!                                                                            not connected --> back
//! ```
//!
//! Only the administrator's command does this; the running bridge and its relay cannot. Everything that is read is
//! untrusted until the signature is verified: the relay may be hostile, and so may the server that has the files, and
//! other users of this machine. A kill at any step leaves the old program in its place, or a new one that has passed its
//! trial.
//!
//! | module | does |
//! | --- | --- |
//! | `manifest` | verifies the signature, and what the manifest says of the program |
//! | `rules` | decides which versions may be installed |
//! | `source` | reads the files, from a directory or by HTTPS |
//! | `place` | the directory of the program: its rights, and the exchange of the files |
//! | `trial` | runs the new program with a time limit |
//! | `managed` | whether a package manager or a container owns the program |

pub(crate) mod managed;
pub(crate) mod manifest;
pub(crate) mod place;
pub(crate) mod rules;
pub(crate) mod source;
pub(crate) mod trial;
