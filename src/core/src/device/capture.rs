//! Work of an accelerator that is always the same, captured once and then launched in one go (CUDA graphs).

use crate::error::Result;

/// What the work that this thread gives to the accelerator can be captured in. It is not done until it is replayed.
pub trait Graph {
    /// From now on work is captured. False if that is not possible here.
    fn begin(&mut self) -> Result<bool>;
    /// That is all; `whole` says whether all of the work was given. False if it cannot be replayed.
    fn end(&mut self, whole: bool) -> Result<bool>;
    /// Does what was captured, on what is now in the tensors that were used.
    fn replay(&mut self) -> Result<()>;
}

/// Runs before the capture: libraries choose their algorithms and memory is set aside in the first ones.
const WARM_UP: u32 = 3;

enum Stage {
    WarmUp(u32),
    Captured,
    /// There is no graph, or it failed.
    Direct,
}

/// A piece of work, captured as soon as it is warm.
pub struct Capture {
    graph: Option<Box<dyn Graph + Send>>,
    stage: Stage,
}

impl Capture {
    pub fn new(graph: Option<Box<dyn Graph + Send>>) -> Self {
        let stage = if graph.is_some() { Stage::WarmUp(0) } else { Stage::Direct };
        Self { graph, stage }
    }

    pub fn is_made(&self) -> bool {
        matches!(self.stage, Stage::Captured)
    }

    /// Other work is to be captured, if none has been so far.
    pub fn begin_anew(&mut self) {
        if let Stage::WarmUp(runs) = &mut self.stage {
            *runs = 0;
        }
    }

    /// Does the work, which must use the same tensors each time.
    pub fn run(&mut self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let Some(graph) = &mut self.graph else { return work() };
        match self.stage {
            Stage::Captured => return graph.replay(),
            Stage::WarmUp(runs) if runs < WARM_UP => self.stage = Stage::WarmUp(runs + 1),
            Stage::WarmUp(_) => {
                if captured(graph.as_mut(), work)? {
                    self.stage = Stage::Captured;
                    return graph.replay();
                }
                self.stage = Stage::Direct;
            }
            Stage::Direct => {}
        }
        work()
    }
}

/// Whether it can be replayed. An error of the work itself is left to the next, direct run, which meets it again.
fn captured(graph: &mut dyn Graph, work: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
    if !graph.begin()? {
        return Ok(false);
    }
    let whole = work().is_ok();
    Ok(graph.end(whole)? && whole)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::error::Error;

    /// Notes what it is asked, and answers as told.
    struct Fake {
        said: Arc<Mutex<Vec<&'static str>>>,
        begins: bool,
        ends: bool,
    }

    impl Fake {
        fn say(&self, what: &'static str) {
            self.said.lock().expect("a list").push(what);
        }
    }

    impl Graph for Fake {
        fn begin(&mut self) -> Result<bool> {
            self.say("begin");
            Ok(self.begins)
        }
        fn end(&mut self, whole: bool) -> Result<bool> {
            self.say(if whole { "end" } else { "break off" });
            Ok(self.ends)
        }
        fn replay(&mut self) -> Result<()> {
            self.say("replay");
            Ok(())
        }
    }

    fn said(begins: bool, ends: bool, fails: bool) -> String {
        let list = Arc::new(Mutex::new(Vec::new()));
        let mut capture = Capture::new(Some(Box::new(Fake { said: Arc::clone(&list), begins, ends })));
        let mut runs = 0;
        for _ in 0..WARM_UP + 2 {
            let _ = capture.run(&mut || {
                runs += 1;
                list.lock().expect("a list").push("work");
                if fails && runs == WARM_UP + 1 {
                    return Err(Error::Runtime("not while capturing".into()));
                }
                Ok(())
            });
        }
        let words = list.lock().expect("a list").split_off(WARM_UP as usize);
        words.join(" ")
    }

    #[test]
    fn warm_work_is_captured_once_and_then_replayed() {
        assert_eq!(said(true, true, false), "begin work end replay replay");
    }

    #[test]
    fn what_cannot_be_captured_is_done_directly() {
        assert_eq!(said(false, true, false), "begin work work");
        assert_eq!(said(true, false, false), "begin work end work work");
        assert_eq!(said(true, true, true), "begin work break off work work");
    }

    #[test]
    fn without_a_graph_work_is_work() {
        let mut runs = 0;
        let mut capture = Capture::new(None);
        for _ in 0..9 {
            capture
                .run(&mut || {
                    runs += 1;
                    Ok(())
                })
                .expect("done");
        }
        assert_eq!(runs, 9);
    }
}
