//! `#[main]` and `#[test]`: where a child process comes in.

use proc_macro2::TokenStream;
use quote::quote;
use syn::spanned::Spanned;
use syn::{Attribute, Error, ItemFn, Result};

pub(crate) fn expand_main(options: &TokenStream, item: TokenStream) -> Result<TokenStream> {
    refuse_options(options)?;
    let mut function: ItemFn = syn::parse2(item)?;
    if function.sig.ident != "main" {
        let reason = "this attribute goes on the program's `main`; elsewhere, call `procession::init()` first thing";
        return Err(Error::new(function.sig.ident.span(), reason));
    }
    refuse_async(&function)?;
    refuse_arguments(&function)?;
    let (visibility, output) = (function.vis.clone(), function.sig.output.clone());
    let documentation = take_documentation(&mut function.attrs);
    function.vis = syn::Visibility::Inherited;
    // The user's other attributes stay with the user's body, so that those of async runtimes work.
    Ok(quote! {
        #(#documentation)*
        #visibility fn main() #output {
            #function
            ::procession::__private::run_main(main)
        }
    })
}

pub(crate) fn expand_test(options: &TokenStream, item: TokenStream) -> Result<TokenStream> {
    refuse_options(options)?;
    let function: ItemFn = syn::parse2(item)?;
    if let Some(asyncness) = &function.sig.asyncness {
        let reason = "a test that starts processes is not async: block in it";
        return Err(Error::new(asyncness.span(), reason));
    }
    refuse_arguments(&function)?;
    let ItemFn {
        attrs,
        vis,
        sig,
        block,
    } = function;
    let (name, output) = (&sig.ident, &sig.output);
    Ok(quote! {
        #[::core::prelude::v1::test]
        #(#attrs)*
        #vis fn #name() #output {
            fn body() #output #block
            ::procession::__private::run_test(
                ::std::concat!(::std::module_path!(), "::", ::std::stringify!(#name)),
                body,
            )
        }
    })
}

fn take_documentation(attributes: &mut Vec<Attribute>) -> Vec<Attribute> {
    let (documentation, others) = std::mem::take(attributes)
        .into_iter()
        .partition(|attribute| attribute.path().is_ident("doc"));
    *attributes = others;
    documentation
}

fn refuse_options(options: &TokenStream) -> Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    Err(Error::new(options.span(), "this attribute has no options"))
}

/// An async function is somebody else's to unfold first; an attribute below ours does that.
fn refuse_async(function: &ItemFn) -> Result<()> {
    match &function.sig.asyncness {
        Some(asyncness) if function.attrs.is_empty() => {
            let reason = "an async function needs its runtime's attribute below this one";
            Err(Error::new(asyncness.span(), reason))
        }
        _ => Ok(()),
    }
}

fn refuse_arguments(function: &ItemFn) -> Result<()> {
    if function.sig.inputs.is_empty() {
        return Ok(());
    }
    let reason = "this function has no arguments";
    Err(Error::new(function.sig.inputs.span(), reason))
}
