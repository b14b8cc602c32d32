//! `#[task]`: the function as it was, and an entry in the list of tasks.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, Path, Result, ReturnType, Type};

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let codec = codec(options)?;
    let function: ItemFn = syn::parse2(item)?;
    check(&function)?;
    let name = &function.sig.ident;
    let types = function.sig.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(argument) => Some(&*argument.ty),
        FnArg::Receiver(_) => None,
    });
    let returned = match &function.sig.output {
        ReturnType::Default => None,
        ReturnType::Type(_, returned) => Some(&**returned),
    };
    // One check per type, at the type's own place in the source: the error says which argument cannot travel.
    let sendable = types.chain(returned).map(|sent| {
        quote_spanned! {sent.span()=> ::procession::__private::assert_sendable::<#sent>(); }
    });
    Ok(quote! {
        // Arguments that come from another process are the task's own, whatever it does with them.
        #[allow(clippy::needless_pass_by_value)]
        #function

        const _: () = {
            use ::procession::__private as private;
            #[allow(unused_imports)]
            use private::{ExitOfAny as _, ExitOfResult as _};

            // The names are ours alone: in here they hide what is outside, the task itself included.
            fn __procession_work(
                input: private::Input<'_>,
                output: &mut ::std::vec::Vec<u8>,
            ) -> ::std::result::Result<private::Attached, private::MessageError> {
                private::work::<#codec, _, _>(#name, input, output)
            }

            fn __procession_run(
                input: private::Input<'_>,
            ) -> ::std::result::Result<i32, private::MessageError> {
                let output = private::run::<#codec, _, _>(#name, input)?;
                ::std::result::Result::Ok((&private::Returned(&output)).exit_code())
            }

            static ENTRY: private::Entry =
                private::Entry::new::<#codec, _, _>(#name, __procession_work, __procession_run);

            #[private::linkme::distributed_slice(private::TASKS)]
            #[linkme(crate = private::linkme)]
            static TASK: private::Collected = private::Collected {
                name: ::std::concat!(::std::module_path!(), "::", ::std::stringify!(#name)),
                value: &ENTRY,
            };
        };

        const _: fn() = || { #(#sendable)* };
    })
}

/// The codec of `#[task(codec = ...)]`, as tokens.
fn codec(options: TokenStream) -> Result<TokenStream> {
    let mut codec = quote!(::procession::codec::Postcard);
    let parser = syn::meta::parser(|option| {
        if option.path.is_ident("codec") {
            codec = option.value()?.parse::<Path>()?.into_token_stream();
            return Ok(());
        }
        Err(option.error("a task knows only the option `codec = path::to::Codec`"))
    });
    parser.parse2(options)?;
    Ok(codec)
}

/// What cannot be sent by name and bytes is refused with the reason.
fn check(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    if let Some(asyncness) = &signature.asyncness {
        let reason = "a task is not async: it has a process to itself and may simply block";
        return Err(Error::new(asyncness.span(), reason));
    }
    if let Some(parameter) = signature.generics.params.first() {
        let reason =
            "a task is not generic: it is found by its name, which has to mean one function";
        return Err(Error::new(parameter.span(), reason));
    }
    if let Some(variadic) = &signature.variadic {
        return Err(Error::new(variadic.span(), "a task is not variadic"));
    }
    if let Some(unsafety) = &signature.unsafety {
        let reason = "a task is not unsafe: nobody at the other side could keep a promise for it";
        return Err(Error::new(unsafety.span(), reason));
    }
    if signature.inputs.len() > 8 {
        let reason = "a task takes at most eight arguments: put them into a struct";
        return Err(Error::new(signature.inputs.span(), reason));
    }
    for input in &signature.inputs {
        match input {
            FnArg::Receiver(receiver) => {
                let reason = "a task is a plain function, not a method";
                return Err(Error::new(receiver.span(), reason));
            }
            FnArg::Typed(argument) => match &*argument.ty {
                Type::Reference(reference) => {
                    let reason =
                        "an argument of a task is sent to another process: take it by value";
                    return Err(Error::new(reference.span(), reason));
                }
                Type::ImplTrait(implementation) => {
                    let reason = "an argument of a task has one type: name it";
                    return Err(Error::new(implementation.span(), reason));
                }
                _ => {}
            },
        }
    }
    Ok(())
}
