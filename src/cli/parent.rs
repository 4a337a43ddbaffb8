//! The parent instance as it is typed: its IAM role's ARN and its id. A register of anything else matches no enclave, and
//! nobody would tell: what is typed is measured, not looked up.

/// The ARN of an IAM role: `arn:aws:iam::123456789012:role/path/name`.
pub fn role_arn(text: &str) -> Result<String, String> {
    let wanted = "PCR3 is of the role itself: arn:aws:iam::123456789012:role/NAME";
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts[..] else { return Err(wanted.to_owned()) };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let is_role = resource.strip_prefix("role/").is_some_and(|name| !name.is_empty() && !name.ends_with('/'));
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['*', '?']);
    if arn == "arn" && partition.starts_with("aws") && is_account && is_plain {
        match (service, region, resource.split('/').next()) {
            ("iam", "", _) if is_role => return Ok(text.to_owned()),
            ("sts", _, Some("assumed-role")) => return Err(format!("that is a session of the role; {wanted}")),
            ("iam", _, Some("instance-profile")) => return Err(format!("that is an instance profile; {wanted}")),
            _ => {}
        }
    }
    Err(wanted.to_owned())
}

/// The id of an instance: `i-` and 17 hexadecimal digits, of old ones 8.
pub fn instance_id(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("i-").unwrap_or_default();
    let hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if hex && [8, 17].contains(&digits.len()) {
        return Ok(text.to_owned());
    }
    Err("an instance id is i- and 17 hexadecimal digits in small letters, such as i-1234567890abcdef0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_told_from_what_is_like_them() {
        for arn in ["arn:aws:iam::123456789012:role/Webserver", "arn:aws-cn:iam::123456789012:role/a/b+c=d,e.f@g-h"] {
            assert_eq!(role_arn(arn).as_deref(), Ok(arn));
        }
        let why = |text: &str| role_arn(text).unwrap_err();
        assert!(why("arn:aws:sts::123456789012:assumed-role/Webserver/i-1").contains("a session of the role"));
        assert!(why("arn:aws:iam::123456789012:instance-profile/Webserver").contains("an instance profile"));
        for text in [
            "",
            "Webserver",
            "arn:aws:iam::1234:role/x",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:user/x",
        ] {
            assert!(why(text).starts_with("PCR3 is of the role itself"), "{text}");
        }
        assert!(role_arn("arn:aws:iam::123456789012:role/*").is_err());
        assert!(role_arn("arn:aws:iam::123456789012:role/a b").is_err());
    }

    #[test]
    fn instances_have_ids() {
        assert!(instance_id("i-1234567890abcdef0").is_ok() && instance_id("i-12345678").is_ok());
        for text in ["", "i-", "1234567890abcdef0", "i-1234567890ABCDEF0", "i-123", "i-1234567890abcdefg"] {
            assert!(instance_id(text).is_err(), "{text}");
        }
    }
}
