//! The state machine from outside: stories, a dumb twin, crashes.

mod crash;
mod random;
mod stories;
mod twin;
mod world;
