//! The wall clock is set while actors live. What lasts within the process does not depend on that.

use std::time::Duration;

use crate::common::{Do, Lab};
use crate::troupe::Counter;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_pause_between_attempts_is_as_long_however_the_clock_is_set() {
    for (id, forward, back) in [("a", HOUR, Duration::ZERO), ("b", Duration::ZERO, HOUR)] {
        let lab = Lab::new();
        let engine = lab.engine().await;
        let counter = Counter::on(&engine).get_or_create(id).await.unwrap();
        lab.world.tell(id, Do::FailTimes(1));
        let start = tokio::time::Instant::now();
        let call = async { counter.persist(id).await.unwrap() };
        let set = async {
            lab.world.until(id).await;
            // The pause has begun, of which half is random.
            tokio::time::sleep(MINUTE / 6).await;
            lab.clock.set(lab.clock.now() + forward - back);
        };
        let (count, ()) = tokio::join!(call, set);
        assert_eq!((count, lab.world.log().len()), (1, 2));
        let took = start.elapsed();
        assert!((MINUTE / 2..MINUTE + SECOND).contains(&took), "{took:?}");
    }
}
