//! Writes a random history to standard output: linearizable unless a fault is asked for.

use std::io::{BufWriter, Write};

use clap::{Parser, ValueEnum};
use raftkv_sim::history::generate::{Fault, Shape};

/// Writes a random history, one JSON line an event.
#[derive(Parser)]
struct Arguments {
    /// How many operations.
    #[arg(long, default_value_t = 10_000)]
    operations: usize,
    /// How many clients call at once.
    #[arg(long, default_value_t = 10)]
    clients: usize,
    /// How many keys they use.
    #[arg(long, default_value_t = 10)]
    keys: usize,
    /// How often get, put, append, delete and cas are drawn, in proportion.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 3, 0, 1, 1])]
    weights: Vec<u32>,
    /// Draw from this many values; 0 makes every value new.
    #[arg(long, default_value_t = 0)]
    values: usize,
    /// Of 1,000 operations, how many end as unknown.
    #[arg(long, default_value_t = 5)]
    info_permille: u32,
    /// Of 1,000 operations, how many fail.
    #[arg(long, default_value_t = 5)]
    fail_permille: u32,
    /// What goes wrong.
    #[arg(long)]
    fault: Option<Kind>,
    /// The operation in whose turn it goes wrong; half way if not given.
    #[arg(long)]
    fault_at: Option<usize>,
    /// Everything comes from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    StaleRead,
    LostWrite,
    DoubleApply,
    WrongCas,
    Garbage,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let fault = arguments.fault.map(|kind| match kind {
        Kind::StaleRead => Fault::StaleRead,
        Kind::LostWrite => Fault::LostWrite,
        Kind::DoubleApply => Fault::DoubleApply,
        Kind::WrongCas => Fault::WrongCas,
        Kind::Garbage => Fault::Garbage,
    });
    let mut weights = [0; 5];
    for (weight, given) in weights.iter_mut().zip(&arguments.weights) {
        *weight = *given;
    }
    let shape = Shape {
        operations: arguments.operations,
        clients: arguments.clients,
        keys: arguments.keys,
        weights,
        values: (0..arguments.values).map(|value| value.to_string()).collect(),
        info_permille: arguments.info_permille,
        fail_permille: arguments.fail_permille,
        fault: fault.map(|fault| (arguments.fault_at.unwrap_or(arguments.operations / 2), fault)),
    };
    let generated = shape.generate(arguments.seed);
    if fault.is_some() && !generated.faulty {
        eprintln!("there was no chance for the fault: the history is linearizable");
    }
    let mut out = BufWriter::with_capacity(1 << 18, std::io::stdout().lock());
    generated.history.write(&mut out)?;
    out.flush()
}
