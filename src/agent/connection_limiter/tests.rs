//! Which connection is closed for another one, and which never is.

use super::*;

fn limiter(max: usize) -> Arc<ConnectionLimiter> {
    ConnectionLimiter::new(max, Metrics::new())
}

fn acquire(limiter: &Arc<ConnectionLimiter>, address: &str) -> Option<Arc<ConnectionPermit>> {
    Some(limiter.acquire(address.parse().unwrap())?.0)
}

fn is_evicted(permit: &ConnectionPermit) -> bool {
    permit.evicted.is_cancelled()
}

#[test]
fn one_peer_gets_its_share_and_pays_for_more_itself() {
    let limiter = limiter(8);
    let other = acquire(&limiter, "10.0.0.2").unwrap();
    let first = acquire(&limiter, "10.0.0.1").unwrap();
    let second = acquire(&limiter, "10.0.0.1").unwrap();
    let third = acquire(&limiter, "::ffff:10.0.0.1").unwrap();
    assert!(is_evicted(&first), "the same address");
    assert!(!is_evicted(&second) && !is_evicted(&third) && !is_evicted(&other));
    let six = ["fd00::1", "fd00::2", "fd00::3"].map(|address| acquire(&limiter, address).unwrap());
    assert!(is_evicted(&six[0]) && !is_evicted(&six[2]), "the same /64");
    assert_eq!(limiter.lock().by_peer.len(), 3);
    drop((other, first, second, third, six));
    let open = limiter.lock();
    assert!(open.by_peer.is_empty() && open.connections.is_empty());
    assert_eq!(open.closing, 0);
}

#[test]
fn the_longest_idle_connection_of_the_busiest_peer_is_closed_for_a_new_one() {
    let limiter = limiter(128);
    let of = |net: u8, count: u8| -> Vec<_> {
        (0..count)
            .map(|_| acquire(&limiter, &format!("10.0.0.{net}")).unwrap())
            .collect()
    };
    let first = of(1, 1);
    let busiest = of(2, 32);
    let others: Vec<_> = (3..98).flat_map(|net| of(net, 1)).collect();
    assert_eq!(limiter.lock().connections.len(), 128);
    let _new = of(200, 1);
    assert!(is_evicted(&busiest[0]) && !is_evicted(&busiest[1]));
    assert!(!is_evicted(&first[0]) && !others.iter().any(|permit| is_evicted(permit)));
}

#[test]
fn of_peers_with_few_each_the_longest_idle_connection_is_closed() {
    let limiter = limiter(4);
    let all: Vec<_> = (0..4)
        .map(|net| acquire(&limiter, &format!("10.0.0.{net}")).unwrap())
        .collect();
    drop(RequestPermit::new(all[1].clone()));
    all[0].touch();
    let mut new = Vec::new();
    for (number, goes) in [2, 3, 1, 0].into_iter().enumerate() {
        new.push(acquire(&limiter, &format!("10.0.1.{number}")).unwrap());
        assert!(is_evicted(&all[goes]), "{goes}");
        assert_eq!(
            all.iter().filter(|permit| is_evicted(permit)).count(),
            number + 1
        );
    }
}

#[test]
fn a_connection_with_a_complete_request_is_not_closed_and_an_evicted_one_begins_none() {
    let limiter = limiter(2);
    let busy = acquire(&limiter, "10.0.0.1").unwrap();
    let request = RequestPermit::new(busy.clone());
    assert!(request.complete());
    let trickling = acquire(&limiter, "10.0.0.2").unwrap();
    let late = RequestPermit::new(trickling.clone());
    let new = acquire(&limiter, "10.0.0.3").unwrap();
    assert!(is_evicted(&trickling) && !is_evicted(&busy));
    assert!(!late.complete(), "its permit is gone");
    let another = RequestPermit::new(new.clone());
    assert!(another.complete() && another.complete());
    assert!(acquire(&limiter, "10.0.0.4").is_none(), "both are busy");
    drop(request);
    assert!(acquire(&limiter, "10.0.0.4").is_some());
    assert!(is_evicted(&busy) && !is_evicted(&new));
}

#[test]
fn of_too_many_requests_that_arrive_the_longest_idle_one_is_ended() {
    let limiter = limiter(12);
    let all: Vec<_> = (0..5)
        .map(|net| acquire(&limiter, &format!("10.0.0.{net}")).unwrap())
        .collect();
    let complete = RequestPermit::new(all[0].clone());
    assert!(complete.complete());
    let arriving = [1, 2, 3].map(|number: usize| RequestPermit::new(all[number].clone()));
    let _fourth = RequestPermit::new(all[4].clone());
    assert!(!is_evicted(&all[1]));
    let _fifth = RequestPermit::new(all[4].clone());
    assert!(is_evicted(&all[1]) && !is_evicted(&all[2]));
    assert!(!is_evicted(&all[0]) && complete.complete());
    drop(arriving);
    assert_eq!(limiter.lock().by_peer.len(), 4);
}

#[test]
fn of_too_many_headers_that_arrive_the_longest_idle_ones_are_ended() {
    let limiter = limiter(12);
    let all: Vec<_> = (0..8)
        .map(|net| acquire(&limiter, &format!("10.0.0.{net}")).unwrap())
        .collect();
    // Between two requests: the next one's headers may arrive unseen.
    drop(RequestPermit::new(all[1].clone()));
    all[2..6].iter().for_each(|permit| permit.begin());
    let evicted: Vec<_> = all.iter().map(|permit| is_evicted(permit)).collect();
    let (silent, asked) = (evicted[0], evicted[1]);
    assert!(!silent && !asked, "{evicted:?}");
    assert_eq!(evicted.iter().filter(|is_evicted| **is_evicted).count(), 1);
    all[6..].iter().for_each(|permit| permit.begin());
    let left = all[1..].iter().filter(|permit| !is_evicted(permit));
    assert_eq!(left.count(), 4);
    assert!(!is_evicted(&all[0]), "it takes no memory for a request");
}

#[test]
fn a_connection_is_idle_when_no_request_is_under_way() {
    let limiter = limiter(8);
    let silent = acquire(&limiter, "10.0.0.1").unwrap();
    let asked = acquire(&limiter, "10.0.0.1").unwrap();
    drop(RequestPermit::new(asked.clone()));
    let trickling = acquire(&limiter, "10.0.0.2").unwrap();
    let request = RequestPermit::new(trickling.clone());
    let evicted_after = |seconds, is_stopping| {
        let now = Instant::now() + Duration::from_secs(seconds);
        limiter.lock().evict_idle(now, is_stopping);
        [&silent, &asked, &trickling].map(|permit| is_evicted(permit))
    };
    assert_eq!(evicted_after(29, false), [false, false, false]);
    assert_eq!(evicted_after(31, false), [true, false, false]);
    assert_eq!(evicted_after(61, false), [true, true, false]);
    drop(request);
    assert_eq!(evicted_after(1, false), [true, true, false]);
    assert_eq!(evicted_after(1, true), [true, true, true]);
}
