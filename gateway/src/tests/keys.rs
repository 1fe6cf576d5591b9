//! Keys and tokens for the tests of identity. Nothing outside these tests trusts them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::clock;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub const AUDIENCE: &str = "steadfast-tests";

/// The key of RFC 7515, appendix A.3.
const EC_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const EC_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const EC_D: &str = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI";

pub const RSA_N: &str = "nzAm46Ts8XlVafG2rp4dJgQk1mYgloHEg_5OmBPIw2MH1f9dGi8l070dNzTsPf19q5GLF4FoTWuphwW7fm3OxY6aFC1ySJ0Ta6Or\
     LjaVzHrCaEy77NFEmL2mlij56LOpAyDfyC1Zf_dNBKr38n9p8Oo0QVOpLl2r2Bn1DggYuX1Frre3Itz9BB1Fg8hvtngkjY4DOKZZ\
     EOoZRD1UzJ1439CUUn4zlHPzOKtG45sXSqi__w0crht4Yd5cCbrLW_c4dQbBW_-InUzXKy2HAN4z5sHPEZ3pZA6AbU-NU7sjkJih\
     AkzBhTXynosG4JIZR_m5H8HCe_j5hnkKysRIGXH2_Q";
/// PKCS #8, without the armour.
const RSA_PRIVATE: &str = "MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQCfMCbjpOzxeVVp8baunh0mBCTWZiCWgcSD/k6YE8jDYwfV/10a\
     LyXTvR03NOw9/X2rkYsXgWhNa6mHBbt+bc7FjpoULXJInRNro6suNpXMesJoTLvs0USYvaaWKPnos6kDIN/ILVl/900Eqvfyf2nw\
     6jRBU6kuXavYGfUOCBi5fUWut7ci3P0EHUWDyG+2eCSNjgM4plkQ6hlEPVTMnXjf0JRSfjOUc/M4q0bjmxdKqL//DRyuG3hh3lwJ\
     ustb9zh1BsFb/4idTNcrLYcA3jPmwc8RnelkDoBtT41TuyOQmKECTMGFNfKeiwbgkhlH+bkfwcJ7+PmGeQrKxEgZcfb9AgMBAAEC\
     ggEAD87MTdbW4LPX04l5RqXU5y2KKvBBVDDWvvTGATwVt7Fh2dJeAHemHfytpgnPW+iMTjlJwq/LF8UVNJ9RGyD0Y5HhoxdQPf27\
     K/k4yoIJJiEapRjZoI63bSOII2k2R/FvWywsjMhUFu0L7Oa9cItOjenz/ni8WCpdIjyRpS8QpXqu2dzbtaDM+QdZsI/F0IXEQDay\
     n/+Bj4uh8zVzHgC1FOnpLt5vcUQoYmithGPLOvFXuFqQ4yyOrDtC9B1Yh8exb8Gp8g47bMUVmCmINCcfpzqFa60KaYXb3RfAAshl\
     RCW5xoGY01x24j08Gh3o9Z+E2s/o/FIG3FawP8RaaNB40QKBgQDgtX4sR0U7Y1/ZaMrP47wWCU6KUS+eUTIaZq0WsX8Y8PYCTMQQ\
     osvJjMOEid/iYTiGVlOjWs34tIYVyGspIN6MVg8rwsoQWbzSaNaow2FOrPCiycegUDNT7lES/n3KoFVhzYleTtXxM4XCuHdljk8L\
     oez1nAsRtudBg1HRxoStFwKBgQC1WvKEn5/WAsDG5Zfi1ygfRkuiLgccVwmZRC0GHNs5eiTBMfS8NaVEAST4HtUu+4Kv6mebFgns\
     1+i/v/Y8irQ9DqN+y2UWRwEOdymyHgudYlOWFlV+yeS3oU93jvgdIErhk6q18CYDq//TDR6DwOLAmIy+jBp3X6Lp6QQ8N8ARCwKB\
     gCryxXDVFmhpb/Jv0wO09UgI81gAeGd8AWWGZmLF/hLYS0zZO0gqtWSKYPw+FeqAxnr2mPnJ60Az0MTtD35G6AJOmIu2qURCwpI8\
     s3qCDWEqMLwMcPk1GvpZvGky9vv5dRhCXpUF4GI/hLtY4okoj/cbNd0jvAHgwYaGAOdlWAp1AoGAMuAVorDo9O+GxwVHi6JSJhvh\
     Qdjps8CS98URYGKd+UzTnML35giimSY9CcIUif6SlekLMY2IMUIMkCY43JkIoQxHP12tuQcoO7egIdCd74PS8QrI5y2aFQ2SrnaU\
     Eg+qEggL3shE0cjhloJaqhllQyRIb3f8QLq6iCYPQxlcrysCgYAELdhzqFwE/m9EwTnX6G8KslT9xpjlwZ93+1zZe3b0e/e7T37G\
     IYEUJ65Jc53VjP9luFS4jaFBdIkrq+Gy3SBDHwIxi6hisqDMYiA8KGqgEkoafFf9l6kpi2LF/mRs6UvRnXzqW09BkiEd9ukNYfaa\
     fxf5dVrZ+YmNrE0VLJ10FA==";

/// The public keys, as an issuer publishes them.
pub fn key_set() -> Value {
    json!({"keys": [
        {"kid": "ec", "kty": "EC", "crv": "P-256", "use": "sig", "x": EC_X, "y": EC_Y},
        {"kid": "rsa", "kty": "RSA", "alg": "RS256", "n": RSA_N, "e": "AQAB"},
    ]})
}

pub fn ec_key() -> EncodingKey {
    let decode = |text| URL_SAFE_NO_PAD.decode(text).expect("a constant");
    let head = "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420";
    let mut der = unhex(head);
    der.extend(decode(EC_D));
    der.extend(unhex("a14403420004"));
    der.extend(decode(EC_X));
    der.extend(decode(EC_Y));
    EncodingKey::from_ec_der(&der)
}

pub fn rsa_key() -> EncodingKey {
    let armour = |side: &str| format!("-----{side} PRIVATE KEY-----");
    let pem = format!("{}\n{}\n{}\n", armour("BEGIN"), RSA_PRIVATE, armour("END"));
    EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a constant")
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex");
    text.as_bytes().chunks(2).map(byte).collect()
}

/// Seconds from now, as a token says it.
pub fn in_seconds(seconds: i64) -> i64 {
    clock::now().timestamp() + seconds
}

/// Claims that are taken, but for what is changed in them; a null takes a claim away.
pub fn claims(changes: Value) -> Value {
    let mut claims = json!({"tenant": "acme", "scope": "*", "aud": AUDIENCE, "exp": in_seconds(300)});
    for (name, value) in changes.as_object().expect("changes are an object") {
        claims[name] = value.clone();
    }
    let fields = claims.as_object_mut().expect("claims are an object");
    fields.retain(|_, value| !value.is_null());
    claims
}

pub fn token(claims: &Value) -> String {
    signed(
        Algorithm::HS256,
        None,
        &EncodingKey::from_secret(SECRET.as_bytes()),
        claims,
    )
}

pub fn signed(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header {
        kid: kid.map(str::to_owned),
        ..Header::new(algorithm)
    };
    jsonwebtoken::encode(&header, claims, key).expect("a token")
}

/// A token with this header and no signature worth the name.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}
