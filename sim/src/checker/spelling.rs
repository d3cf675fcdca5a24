//! How the values that are looked for are spelled by what is put and appended.
//!
//! A value comes about by a put or cas of its beginning (or from absence), and appends of the rest, piece by piece. Often
//! there is one way only. Then a get of the value *demands* each of these pieces and that beginning, and when they
//! were used up elsewhere there is no need to go on.

use super::{
    looks::Looks,
    model::{NEVER, State},
    pieces::Pieces,
    states::{ABSENT, EMPTY, States, UNSEEN},
};

/// A value that cannot come about without a piece, and how often it needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) value: State,
    pub(crate) times: u32,
}

/// No demand: a value that nobody looks for.
const NOTHING: Demand = Demand { value: UNSEEN, times: 0 };

/// What is known about the pieces and beginnings of the values looked for.
pub(crate) struct Spelling {
    /// Until when each piece is looked for: the expiry of the last value that contains it anywhere, at least.
    pub(crate) piece_expiry: Vec<u32>,
    /// The last value that cannot come about without each piece.
    pub(crate) piece_demand: Vec<Demand>,
    /// The last value that cannot come about without each beginning, by state; [`UNSEEN`] if there is none.
    pub(crate) beginning_demand: Vec<State>,
}

/// Pieces of more different lengths are not looked for in the values: they count as looked for until the end.
const PIECE_LENGTHS_MAX: usize = 16;

/// The last step to a place in a text.
#[derive(Clone, Copy, Debug)]
enum Step {
    Piece(u32),
    Beginning(State),
}

/// The ways to the places of one text.
struct Ways {
    /// How many there are to each place, up to 2.
    count: Vec<u8>,
    /// The last step of one of them, and where it began.
    last: Vec<(Step, u32)>,
}

impl Ways {
    /// Forgets the places behind `length`.
    fn cut(&mut self, length: usize) {
        self.count.truncate(length + 1);
        self.last.truncate(length + 1);
    }

    fn add(&mut self, place: usize, ways: u8, last: Step, from: usize) {
        self.count[place] = (self.count[place] + ways).min(2);
        self.last[place] = (last, from as u32);
    }
}

impl Spelling {
    /// `made` are the values that something other than an append results in.
    pub(crate) fn new(states: &States<'_>, looks: &Looks, pieces: &Pieces, made: &[State]) -> Spelling {
        let mut spelling = Spelling {
            piece_expiry: vec![0; pieces.count()],
            piece_demand: vec![NOTHING; pieces.count()],
            beginning_demand: vec![UNSEEN; states.count()],
        };
        if pieces.lengths() > PIECE_LENGTHS_MAX {
            spelling.piece_expiry.fill(NEVER);
        } else if pieces.count() > 0 {
            spelling.read(states, looks, pieces, made);
        }
        if let Some(empty) = pieces.empty() {
            // It stands in every value, and is not looked for in any.
            spelling.piece_expiry[empty as usize] = NEVER;
        }
        spelling
    }

    /// Reads all values. They are sorted, so each shares a prefix with the one before it, which is read once.
    fn read(&mut self, states: &States<'_>, looks: &Looks, pieces: &Pieces, made: &[State]) {
        let texts: Vec<&[u8]> = looks.values().iter().map(|value| states.spelled(*value)).collect();
        let shared: Vec<usize> = (0..texts.len())
            .map(|at| if at == 0 { 0 } else { shared_prefix(texts[at - 1], texts[at]) })
            .collect();
        let sharers = sharers(&shared);
        let mut beginnings = beginnings(states, looks, made).into_iter().peekable();
        let mut last_demand = vec![0; self.piece_demand.len()];
        let mut last_beginning = vec![0; self.beginning_demand.len()];
        let mut ways = Ways { count: vec![1], last: vec![(Step::Beginning(ABSENT), 0)] };
        for (at, text) in texts.iter().enumerate() {
            ways.cut(shared[at]);
            ways.count.resize(text.len() + 1, 0);
            ways.last.resize(text.len() + 1, (Step::Beginning(ABSENT), 0));
            while let Some((_, length, state)) = beginnings.next_if(|(first, ..)| *first as usize == at) {
                ways.add(length, 1, Step::Beginning(state), 0);
            }
            let expiry = looks.greatest(at as u32, sharers[at]);
            pieces.occurrences(states, text, shared[at], |piece, from, to| {
                let known = &mut self.piece_expiry[piece as usize];
                *known = expiry.max(*known);
                if ways.count[from] > 0 {
                    ways.add(to, ways.count[from], Step::Piece(piece), from);
                }
            });
            if ways.count[text.len()] == 1 {
                let rank = looks.greatest(at as u32, at as u32 + 1);
                self.demand(
                    looks.values()[at],
                    rank,
                    &ways,
                    text.len(),
                    &mut last_demand,
                    &mut last_beginning,
                );
            }
        }
    }

    /// Notes what `value`, which can be spelled in one way only, demands.
    fn demand(
        &mut self,
        value: State,
        rank: u32,
        ways: &Ways,
        length: usize,
        last_demand: &mut [u32],
        last_beginning: &mut [u32],
    ) {
        let mut place = length;
        loop {
            match ways.last[place] {
                (Step::Piece(piece), from) => {
                    let piece = piece as usize;
                    let demand = &mut self.piece_demand[piece];
                    if demand.value == value {
                        demand.times += 1;
                    } else if rank >= last_demand[piece] {
                        last_demand[piece] = rank;
                        *demand = Demand { value, times: 1 };
                    }
                    place = from as usize;
                }
                (Step::Beginning(state), _) => {
                    if rank >= last_beginning[state as usize] {
                        last_beginning[state as usize] = rank;
                        self.beginning_demand[state as usize] = value;
                    }
                    return;
                }
            }
        }
    }
}

/// The values made that values looked for begin with: the first such value, the length, the state; sorted. The empty
/// string is left out: it is no different from the beginning that absence is.
fn beginnings(states: &States<'_>, looks: &Looks, made: &[State]) -> Vec<(u32, usize, State)> {
    let mut beginnings = Vec::new();
    for state in made.iter().copied().filter(|state| *state != ABSENT && *state != EMPTY) {
        let (from, to) = looks.range(states, state);
        if from < to {
            beginnings.push((from, states.length(state), state));
        }
    }
    beginnings.sort_unstable();
    beginnings.dedup();
    beginnings
}

/// For each value the end of those behind it that share more with it than it does with the one before it.
fn sharers(shared: &[usize]) -> Vec<u32> {
    let mut sharers = vec![shared.len() as u32; shared.len()];
    let mut ahead: Vec<usize> = Vec::new();
    for at in (0..shared.len()).rev() {
        while ahead.last().is_some_and(|next| shared[*next] > shared[at]) {
            ahead.pop();
        }
        if let Some(next) = ahead.last() {
            sharers[at] = *next as u32;
        }
        ahead.push(at);
    }
    sharers
}

/// How many bytes two texts begin with in common.
fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
