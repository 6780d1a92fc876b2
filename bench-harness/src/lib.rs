//! Phones and load for ringway, with a small SIP implementation of its own so that a parser bug cannot hide in both.
