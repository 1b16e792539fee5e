//! Child processes that do not outlive the test that started them, also when it fails.

use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, Output};

/// Killed and waited for when dropped.
pub struct Guarded(Option<Child>);

impl Guarded {
    pub fn spawn(command: &mut Command) -> Guarded {
        Guarded(Some(command.spawn().expect("the program was built beside its tests")))
    }

    /// Waits for its end.
    pub fn output(mut self) -> Output {
        let child = self.0.take().expect("it is taken here only");
        child.wait_with_output().expect("its pipes can be read")
    }
}

impl Deref for Guarded {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().expect("it is taken with the guard")
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().expect("it is taken with the guard")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_child_ends_with_its_guard() {
    let child = Guarded::spawn(Command::new("sleep").arg("600"));
    let place = format!("/proc/{}", child.id());
    assert!(std::path::Path::new(&place).exists());
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _child = child;
        panic!("a test that fails");
    }));
    assert!(failed.is_err() && !std::path::Path::new(&place).exists());
}
