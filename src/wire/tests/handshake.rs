//! Both roles of the handshake against each other, against vectors and against nonsense.

use super::hex;
use crate::wire::handshake::*;
use crate::wire::version::Version;

const V3: Version = Version::new(3, 0);
const V4_4: Version = Version::new(4, 4);
const V5_4: Version = Version::new(5, 4);
const V5_7: Version = Version::new(5, 7);
const V5_8: Version = Version::new(5, 8);

fn proposals(text: &str) -> [Proposal; 4] {
    let bytes = hex(&format!("60 60 B0 17 {text}"));
    parse_hello20(&bytes.try_into().expect("four proposals")).expect("the magic is right")
}

#[test]
fn the_first_proposal_that_fits_wins_with_its_highest_minor() {
    let all = Version::ALL;
    let driver = "00 00 01 FF 00 08 08 05 00 02 04 04 00 00 00 03";
    let classic = "00 07 07 05 00 02 04 04 00 00 01 04 00 00 00 03";
    let cases: [(&str, &[Version], Choice); 13] = [
        (driver, &all, Choice::Manifest),
        (driver, &[V5_4], Choice::Manifest),
        (driver, &[], Choice::None),
        (classic, &all, Choice::Version(V5_7)),
        (classic, &[V5_8, V5_4, V4_4], Choice::Version(V5_4)),
        (classic, &[V5_8, V4_4], Choice::Version(V4_4)),
        (classic, &[V3], Choice::Version(V3)),
        (classic, &[V5_8], Choice::None),
        // The client's order counts, not the height.
        ("00 00 04 04 00 00 08 05 00 00 00 00 00 00 00 00", &all, Choice::Version(V4_4)),
        // A range ends at minor 0 and never reaches another major.
        ("00 FF 02 04 00 00 00 00 00 00 00 00 00 00 00 00", &[V3, V4_4], Choice::None),
        ("00 08 04 04 00 00 00 00 00 00 00 00 00 00 00 00", &[V4_4, V3], Choice::Version(V4_4)),
        // An unknown manifest is skipped.
        ("00 00 02 FF 00 00 04 05 00 00 00 00 00 00 00 00", &all, Choice::Version(V5_4)),
        ("00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", &all, Choice::None),
    ];
    for (text, offered, expected) in cases {
        assert_eq!(choose(&proposals(text), offered), expected, "{text} with {offered:?}");
    }
}

#[test]
fn a_preference_wins_over_the_clients_order() {
    let classic = "00 07 07 05 00 02 04 04 00 00 01 04 00 00 00 03";
    let old_first = "00 00 04 04 00 08 08 05 00 00 00 00 00 00 00 00";
    let manifest = "00 00 01 FF 00 08 08 05 00 02 04 04 00 00 00 03";
    let cases: [(&str, &[Version], Choice); 6] = [
        (classic, &[V5_8, V5_4, V4_4], Choice::Version(V5_4)),
        (classic, &[V4_4, V5_4], Choice::Version(V4_4)),
        (old_first, &[V5_4, V4_4], Choice::Version(V5_4)),
        (classic, &[V5_8], Choice::None),
        (classic, &[], Choice::None),
        (manifest, &[V5_4, V5_8], Choice::Manifest),
    ];
    for (text, preferred, expected) in cases {
        let chosen = choose_preferred(&proposals(text), preferred);
        assert_eq!(chosen, expected, "{text} with {preferred:?}");
    }
}

#[test]
fn answers_are_the_vectors() {
    assert_eq!(answer(Choice::Version(V5_4)), [0, 0, 4, 5]);
    assert_eq!(answer(Choice::None), [0; 4]);
    assert_eq!(answer(Choice::Manifest), manifest(&[V5_4])[..4]);
    let offered = [V4_4, V5_8, Version::new(5, 6), V5_7];
    assert_eq!(manifest(&offered), hex("00 00 01 FF 02 00 02 08 05 00 00 04 04 00"));
    assert_eq!(manifest_choice(V5_8), hex("00 00 08 05 00"));
    let all = "00 00 01 FF 05 00 01 01 06 00 02 08 05 00 04 04 05 00 04 04 04 00 00 00 03 00";
    assert_eq!(manifest(&Version::ALL), hex(all));
    let current = hex("60 60 B0 17 00 00 01 FF 00 08 08 05 00 02 04 04 00 00 00 03");
    let parsed = parse_hello20(&current.try_into().expect("20 bytes")).expect("a driver's");
    assert_eq!(parsed[1], Proposal { major: 5, minor: 8, range: 8 });
}

#[test]
fn answers_of_servers_are_read() {
    assert_eq!(parse_answer(&[0, 0, 4, 5]), Ok(Choice::Version(V5_4)));
    assert_eq!(parse_answer(&[0; 4]), Ok(Choice::None));
    assert_eq!(parse_answer(&[0, 0, 1, 0xFF]), Ok(Choice::Manifest));
    let unknown = HandshakeError::UnknownVersion { major: 5, minor: 5 };
    assert_eq!(parse_answer(&[0, 0, 5, 5]), Err(unknown));
    assert_eq!(parse_answer(b"HTTP"), Err(HandshakeError::NotAnAnswer(*b"HTTP")));
}

#[test]
fn an_exact_proposal_is_met_exactly_or_not_at_all() {
    for version in Version::ALL {
        let parsed = parse_hello20(&propose_exact(version)).expect("our own");
        assert_eq!(choose(&parsed, &Version::ALL), Choice::Version(version));
        let others: Vec<_> = Version::ALL.into_iter().filter(|other| *other != version).collect();
        assert_eq!(choose(&parsed, &others), Choice::None);
    }
    let learning = parse_hello20(&propose_manifest()).expect("our own");
    assert_eq!(choose(&learning, &Version::ALL), Choice::Manifest);
    let old = [learning[1], learning[1], learning[2], learning[3]];
    for version in Version::ALL.into_iter().filter(|version| version.major < 6) {
        assert_eq!(choose(&old, &[version]), Choice::Version(version));
    }
}

#[test]
fn manifests_are_read_from_any_prefix_and_with_bytes_behind() {
    for offered in [&Version::ALL[..], &Version::DEFAULT_OFFER, &[V5_8, V5_4, V4_4], &[]] {
        let whole = manifest(offered);
        for length in 0..whole.len() {
            assert_eq!(parse_manifest(&whole[..length]), Ok(None), "{length} bytes");
        }
        let mut expected = offered.to_vec();
        expected.sort_unstable_by(|one, other| other.cmp(one));
        let mut longer = whole.clone();
        longer.extend_from_slice(&[1, 2, 3]);
        assert_eq!(parse_manifest(&longer), Ok(Some((whole.len(), expected))));
    }
    // 5.8 to 5.0 in one range: 5.5 does not exist. 9.9 is of the future.
    let odd = hex("00 00 01 FF 02 00 08 08 05 00 00 09 09 80 01");
    let (length, versions) = parse_manifest(&odd).expect("legal").expect("whole");
    assert_eq!((length, versions.len()), (odd.len(), 8));
    assert!(!versions.contains(&Version::new(5, 5)));
}

#[test]
fn choices_of_clients_are_read_from_any_prefix() {
    let offered = [V5_8, V5_4];
    let whole = manifest_choice(V5_4);
    for length in 0..whole.len() {
        assert_eq!(parse_manifest_choice(&whole[..length], &offered), Ok(None));
    }
    let mut pipelined = whole.clone();
    pipelined.extend_from_slice(&[0, 2, 0xB0, 0x02, 0, 0]);
    assert_eq!(parse_manifest_choice(&pipelined, &offered), Ok(Some((5, Some(V5_4)))));
    assert_eq!(parse_manifest_choice(&[0; 5], &offered), Ok(Some((5, None))));
    let padded = [0, 0, 4, 5, 0x80, 0x80, 0x00];
    assert_eq!(parse_manifest_choice(&padded, &offered), Ok(Some((7, Some(V5_4)))));
}

#[test]
fn bad_handshakes_are_named() {
    use HandshakeError::*;
    let mut magic = [0; 20];
    magic[..4].copy_from_slice(b"GET ");
    assert_eq!(parse_hello20(&magic), Err(WrongMagic(*b"GET ")));
    let offered = [V5_8, V5_4];
    let cases = [
        ("00 00 07 05 00", NotOffered([0, 0, 7, 5])),
        ("00 01 08 05 00", NotOffered([0, 1, 8, 5])),
        ("01 00 08 05 00", NotOffered([1, 0, 8, 5])),
        ("00 00 01 FF 00", NotOffered([0, 0, 1, 0xFF])),
        ("00 00 08 05 01", UnofferedCapability(1)),
        ("00 00 08 05 80 01", UnofferedCapability(128)),
        ("00 00 08 05 FF FF FF FF FF FF FF FF FF FF", EndlessVarint),
        ("00 00 08 05 80 80 80 80 80 80 80 80 80 81", EndlessVarint),
        ("00 00 08 05 80 80 80 80 80 80 80 80 80 02", EndlessVarint),
        ("00 00 08 05 80 80 80 80 80 80 80 80 80 01", UnofferedCapability(1 << 63)),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_manifest_choice(&hex(text), &offered), Err(expected), "{text}");
    }
    let endless = "00 00 01 FF FF FF FF FF FF FF FF FF FF FF";
    let cases = [
        ("00 00 02 FF 00 00", NotAnAnswer([0, 0, 2, 0xFF])),
        ("00 00 01 FF 41", TooManyEntries(65)),
        ("00 00 01 FF FF FF FF FF FF FF FF FF FF 01", TooManyEntries(u64::MAX)),
        (endless, EndlessVarint),
        ("00 00 01 FF 00 80 80 80 80 80 80 80 80 80 80", EndlessVarint),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_manifest(&hex(text)), Err(expected), "{text}");
        assert!(expected.to_string().contains("expected"), "{expected}");
    }
}

#[test]
fn versions_are_written_and_read() {
    for version in Version::ALL {
        assert_eq!(version.to_string().parse(), Ok(version));
        assert!(version.is_known());
    }
    assert!(Version::ALL.is_sorted());
    assert!(Version::DEFAULT_OFFER.is_sorted_by(|one, other| one > other));
    assert!(Version::DEFAULT_OFFER.into_iter().all(Version::is_known));
    assert_eq!("3".parse(), Ok(V3));
    for text in ["", "5", "5.5", "05.4", "5.4 ", "4.5", "7.0", "5.4.1", "-5.4"] {
        assert!(text.parse::<Version>().is_err(), "{text}");
    }
    assert!(!Version::new(5, 5).is_known());
}
