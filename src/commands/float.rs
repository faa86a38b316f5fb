//! Adding to floating-point numbers as the source does: with doubles, and the result in the shortest decimal digits that
//! read back to it. Redis computes with more bits than a double has: 0.1 and 0.2 would be 0.3 there.
//!
//! Facts (v1.40.1): numbers from 1e-6 up to 1e21 are written without an exponent; beyond, as `1.5e+21` and `1e-7`.

use super::plan::{Commands, Context, Plan};
use crate::entry::Args;

/// `s(x)`: a double in the source's spelling.
macro_rules! spelling {
    () => {
        "local function s(x) if x==0 then return '0' end local t \
         for p=0,16 do t=string.format('%.'..p..'e',x) if tonumber(t)==x then break end end \
         local m,d,f,e=string.match(t,'^(-?)(%d)%.?(%d*)e([-+]%d+)$') d=d..f e=tonumber(e) \
         if e>=21 or e<-6 then if #d>1 then d=string.sub(d,1,1)..'.'..string.sub(d,2) end \
         return m..d..'e'..(e<0 and '' or '+')..e end \
         if e<0 then return m..'0.'..string.rep('0',-e-1)..d end \
         if #d<=e+1 then return m..d..string.rep('0',e+1-#d) end \
         return m..string.sub(d,1,e+1)..'.'..string.sub(d,e+2) end "
    };
}

const ADD: &str = concat!(
    spelling!(),
    "local v=redis.call('GET',KEYS[1]) \
     redis.call('SET',KEYS[1],s((v and tonumber(v) or 0)+tonumber(ARGV[1])),'KEEPTTL')"
);

const ADD_TO_FIELD: &str = concat!(
    spelling!(),
    "local v=redis.call('HGET',KEYS[1],ARGV[1]) \
     redis.call('HSET',KEYS[1],ARGV[1],s((v and tonumber(v) or 0)+tonumber(ARGV[2])))"
);

/// `HSET` would end the field's expiry.
const ADD_TO_FIELD_THAT_EXPIRES: &str = concat!(
    spelling!(),
    "local k,f=KEYS[1],ARGV[1] local v=redis.call('HGET',k,f) \
     local t=v and redis.call('HPEXPIRETIME',k,'FIELDS',1,f)[1] or 0 \
     redis.call('HSET',k,f,s((v and tonumber(v) or 0)+tonumber(ARGV[2]))) \
     if t>0 then redis.call('HPEXPIREAT',k,string.format('%.0f',t),'FIELDS',1,f) end"
);

/// `INCRBYFLOAT k n`.
pub(super) fn add<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    match (args.get(1), args.get(2)) {
        (Some(key), Some(by)) if context.features.at_least(6, 0) => {
            let words = [ADD.as_bytes(), b"1", key, by];
            Plan::words(Commands::new(b"EVAL", 5).words(words))
        }
        // Before, a script cannot keep the expiry.
        _ => Plan::AsIs(None),
    }
}

/// `HINCRBYFLOAT k f n`.
pub(super) fn add_to_field<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let script = match context.features.hash_field_expiry() {
        true => ADD_TO_FIELD_THAT_EXPIRES,
        false => ADD_TO_FIELD,
    };
    match (args.get(1), args.get(2), args.get(3)) {
        (Some(key), Some(field), Some(by)) => {
            let words = [script.as_bytes(), b"1", key, field, by];
            Plan::words(Commands::new(b"EVAL", 6).words(words))
        }
        _ => Plan::malformed("HINCRBYFLOAT without a number"),
    }
}
