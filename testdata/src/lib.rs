//! Images for tests and for the first command, made from source.
